"""The upper layers of an overlay root, on a volume: the present one and the retired ones.

::

    ephemeroot-overlay/upper                       what the machine wrote since its last boot
    ephemeroot-overlay/work                        overlayfs's own, always beside it
    ephemeroot-overlay/old-uppers/<time>           retired ones
    ephemeroot-overlay/old-uppers/.removing-<time> one whose removal is not finished

A layer is retired by one rename. After a power cut there is an upper or none, and neither
needs to be recovered: the next boot begins with a new one in either case.
"""

from __future__ import annotations

import errno
import os
import time

from ephemeroot.errors import Locked, Refused
from ephemeroot.linux import inode_flags, kernel, mounts, paths, removal
from ephemeroot.wipers import attributes, marks, names, retention
from ephemeroot.wipers.history import require_owner
from ephemeroot.wipers.names import Name
from ephemeroot.wipers.retention import Candidate, Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container

    from ephemeroot.wipers.contract import Boot
    from ephemeroot.wipers.retention import Verdict

FOLDER = "ephemeroot-overlay"
UPPER, WORK, OLD = "upper", "work", "old-uppers"

REMOVING = ".removing-"
OWNER = "upper"  # in the mark, where btrfs has a subvolume's UUID
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Uppers:
    """The layers on the volume that is mounted at *volume*; ``close`` them.

    They are locked meanwhile. Raises ``Locked``, and ``Refused`` if what is there was not
    made by this program. Without *create* what is missing is not made: ``fd`` or ``old`` is
    -1 then.
    """

    __slots__ = ("fd", "old")

    def __init__(self, volume: str, *, create: bool = True) -> None:
        top = os.open(volume, DIRECTORY)
        self.old = -1
        try:
            self.fd = _open_own(top, FOLDER, create)
        finally:
            os.close(top)
        if self.fd < 0:
            return
        try:
            _lock(self.fd)
            self.old = _open_own(self.fd, OLD, create)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Unlock."""
        for fd in (self.old, self.fd):
            if fd >= 0:
                os.close(fd)
        self.old = self.fd = -1

    def owner(self) -> str:
        """The id of the system whose layers these are, empty without an owner."""
        return marks.system(self.fd) if self.fd >= 0 else ""

    def require_own(self, system: str, *, take: bool) -> None:
        """Raise ``Refused`` if the layers, the present one among them, are another system's.
        With *take*, those without an owner get this one.
        """
        owner = self.owner()
        require_owner(f"{FOLDER} on the volume", owner, system)
        if take and system and not owner:
            marks.set_system(self.fd, system)

    def mount(self) -> int:
        """A detached mount of the folder, so that paths into it cannot lead elsewhere."""
        return mounts.clone(self.fd, name=FOLDER)

    def retired(self) -> list[Name]:
        """The names of ours in old-uppers, the oldest first; others are foreign."""
        found = [names.parse(text) for text in listed(self.old)]
        mine = [n for n in found if n is not None and self._is_directory(str(n))]
        return sorted(mine, key=lambda name: name.identity)

    def newest_lived(self) -> str | None:
        """The layer of the last boot that was complete, relative to the folder."""
        if self._state() == marks.LIVED:
            return UPPER
        lived = [name for name in self.retired() if not name.unused]
        return f"{OLD}/{lived[-1]}" if lived else None

    def next_name(self, boot: Boot, policy: Policy) -> Name | None:
        """The name under which the present layer will be retired; ``None`` if there is none."""
        state = self._state()
        if state is None:
            return None
        retired = self.retired()
        plausible = retention.is_plausible(
            retired,
            boot.now,
            synchronised=boot.synchronised,
            seen=marks.seen(self.old),
            keep_days=policy.keep_days,
        )
        wanted = Name(boot.now, unsynced=not plausible, unused=state != marks.LIVED)
        return names.free(wanted, {other.identity for other in (*retired, *self._going())})

    def mark_kept(self, text: str) -> None:
        """Mark the old layer *text*, as ``newest_lived`` has found it, ``.keep``."""
        text = text.rpartition("/")[2]
        found = names.parse(text)
        if found is not None and not found.keep:
            rename(self.old, text, found.changed(keep=True))
            os.fsync(self.old)

    def retire(self, boot: Boot, policy: Policy, *, keep: bool = False) -> Name | None:
        """Move the present layer to old-uppers; ``None`` if there is none."""
        name = self.next_name(boot, policy)
        if name is None:
            return None
        name = name.changed(keep=keep)
        inode_flags.rename(self.fd, UPPER, self.old, str(name), how=paths.RENAME_NOREPLACE)
        os.fsync(self.old)
        os.fsync(self.fd)
        return name

    def make(self, pattern: int, now: float) -> None:
        """Make a new layer, with owner, mode and labels of the open directory *pattern*.

        *now*, in seconds since 1970, is when. Nothing is left of it if that fails.
        """
        removal.remove(self.fd, WORK)
        os.mkdir(WORK, 0o700, dir_fd=self.fd)
        # overlayfs makes one like it, and without the space for that mounts read-only
        # (ovl_make_workdir in fs/overlayfs/super.c).
        os.mkdir(f"{WORK}/work", 0o700, dir_fd=self.fd)
        # Outside of the clean-up: a layer that exists is the previous one.
        os.mkdir(UPPER, 0o700, dir_fd=self.fd)
        try:
            self._fill(pattern, now)
        except BaseException:
            removal.remove(self.fd, UPPER)
            raise

    def _fill(self, pattern: int, now: float) -> None:
        upper = os.open(UPPER, DIRECTORY, dir_fd=self.fd)
        try:
            marks.set_state(upper, OWNER, marks.NEW)
            marks.set_made(upper, now)
            attributes.copy(pattern, upper)
            os.fsync(upper)
        finally:
            os.close(upper)
        os.fsync(self.fd)

    def prune(
        self, boot: Boot, policy: Policy, problems: list[str], min_free: int = 0
    ) -> list[str]:
        """Remove what is due, and what may go early while less than *min_free* bytes are free,
        within ``boot.budget``; return the names that are gone.

        What fails is one of the *problems*: the fresh root is in its place by now.
        """
        deadline = time.monotonic() + boot.budget
        pruned: list[str] = []
        try:
            for text in self._begun():
                self._remove(text, deadline, problems)
            for verdict in self._judge(boot, policy, boot.pinned):
                if time.monotonic() >= deadline:
                    break
                if not verdict.due and not (verdict.spare and self._is_short(min_free)):
                    continue
                name = str(verdict.candidate.name)
                # First the name: what is half removed must not look like a root that was.
                text = condemn(self.old, name)
                boot.log(f"remove the old upper {name}")
                pruned.append(name)
                self._remove(text, deadline, problems)
            if boot.synchronised:
                marks.set_seen(self.old, int(boot.now))
        except OSError as error:
            problems.append(f"cannot prune {OLD}: {error.strerror}")
        return pruned

    def space(self) -> tuple[int, int]:
        """Bytes available and bytes in all, on the volume."""
        status = os.fstatvfs(self.old)
        return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize

    def settle(self) -> None:
        """Make what was removed count as free: btrfs does it with its next commit."""
        if kernel.libc.syncfs(self.old) != 0:
            kernel.raise_errno("syncfs")

    def _is_short(self, min_free: int) -> bool:
        if self.space()[0] >= min_free:
            return False
        self.settle()
        return self.space()[0] < min_free

    def _judge(self, boot: Boot, policy: Policy, pinned: Container[str]) -> list[Verdict]:
        retired = self.retired()
        now = retention.measure(
            retired,
            boot.now,
            synchronised=boot.synchronised,
            seen=marks.seen(self.old),
            keep_days=policy.keep_days,
        )
        candidates = [Candidate(name, pinned=str(name) in pinned) for name in retired]
        # Those that are due first: they may make room enough for the others.
        return sorted(retention.judge(candidates, policy, now), key=lambda verdict: not verdict.due)

    def _begun(self) -> list[str]:
        """What an earlier boot had no time to remove."""
        return [text for text in listed(self.old) if text.startswith(REMOVING)]

    def _going(self) -> list[Name]:
        """The names of the layers that are being removed: they are not given away meanwhile."""
        found = (names.parse(text.removeprefix(REMOVING)) for text in self._begun())
        return [name for name in found if name is not None]

    def _remove(self, text: str, deadline: float, problems: list[str]) -> None:
        """Remove one; what is left of it when time is up is the next boot's."""
        try:
            removal.remove(self.old, text, deadline, unlock=True)
        except OSError as error:
            problems.append(f"cannot remove {OLD}/{text}: {error.strerror}: {error.filename}")

    def _state(self) -> str | None:
        """The mark of the present layer; ``None`` if there is none."""
        try:
            upper = os.open(UPPER, DIRECTORY, dir_fd=self.fd)
        except FileNotFoundError:
            return None
        try:
            return marks.state(upper, OWNER)
        finally:
            os.close(upper)

    def _is_directory(self, text: str) -> bool:
        try:
            os.close(os.open(text, DIRECTORY | os.O_PATH, dir_fd=self.old))
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENOENT):
                return False
            raise
        return True


def condemn(old: int, text: str) -> str:
    """Rename the old upper *text* to what is being removed; return that name."""
    number = 1
    while True:
        # A clock that always begins at the same time gives the same names again.
        removing = f"{REMOVING}{text}" + (f".{number}" if number > 1 else "")
        try:
            inode_flags.rename(old, text, old, removing, how=paths.RENAME_NOREPLACE)
            return removing
        except FileExistsError:
            number += 1


def rename(old: int, text: str, name: Name) -> str:
    """Rename the old upper *text* to *name*, or to the next that is free; return it."""
    while True:
        try:
            inode_flags.rename(old, text, old, str(name), how=paths.RENAME_NOREPLACE)
            return str(name)
        except FileExistsError:
            name = name.at((name.time, name.number + 1))


def mark_lived(path: str) -> bool:
    """Mark the layer above the overlay root at *path*; False if that has no mark of ours."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return marks.mark_lived(fd, OWNER)
    finally:
        os.close(fd)


def _open_own(parent: int, name: str, create: bool) -> int:
    """Open a directory that is root's alone, made if it is missing; -1 without *create*."""
    try:
        if create:
            os.mkdir(name, 0o700, dir_fd=parent)
            os.fsync(parent)
    except FileExistsError:
        pass
    try:
        fd = os.open(name, DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        if create:
            raise
        return -1
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        raise Refused(f"{name} on the volume is no directory", "move it away") from error
    status = os.fstat(fd)
    if status.st_uid != 0 or status.st_mode & 0o022:
        os.close(fd)
        raise Refused(f"{name} on the volume can be written to by others", "move it away")
    return fd


def _lock(fd: int) -> None:
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Locked(
            f"another run of ephemeroot is working on {FOLDER}", "wait until it is done"
        ) from None


def listed(directory: int) -> list[str]:
    """The names in the open *directory*, however often it was listed before."""
    # Through a new descriptor: one that was listed stands at its end.
    return paths.names(mounts.fd_path(directory))
