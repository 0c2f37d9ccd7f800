"""The upper layers of an overlay root, on a volume: the present one and the retired ones.

::

    ephemeroot-overlay/upper                       what the machine wrote since its last boot
    ephemeroot-overlay/work                        overlayfs's own, always beside it
    ephemeroot-overlay/old-uppers/<time>           retired ones
    ephemeroot-overlay/old-uppers/.removing-<time> one whose removal is not finished

A layer is retired by one rename. After a power cut there is an upper or none, and neither
needs to be recovered: the next boot begins with a new one in either case.

Each layer names the root below it (``below``) and has a number that grows with each layer. Over
another root a layer means nothing: it is foreign there, and no clock says which one is the newest.
"""

from __future__ import annotations

import errno
import os

from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.linux import devices, immutable, kernel, mounts, paths, removal
from ephemeroot.wipers import attributes, marks, names
from ephemeroot.wipers.history import lock, require_owner
from ephemeroot.wipers.retire import into_history

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ephemeroot.wipers.names import Name

FOLDER = "ephemeroot-overlay"
UPPER, WORK, OLD = "upper", "work", "old-uppers"

REMOVING = ".removing-"
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

FOREIGN = "foreign"
"""The state of a layer over another root, beside those of ``marks``."""


def below(device: str, fstype: str, subvolume: str | None, root_flags: Iterable[str]) -> str:
    """What the mark of each layer over the root on *device* names, where btrfs has a subvolume's
    UUID: the UUID of the root's filesystem and, on a btrfs, the subvolume's path.

    Raises ``OSError`` if the device cannot be read.
    """
    uuid = devices.filesystem_uuid(devices.named(device)) or ""
    if fstype != "btrfs":
        return uuid
    named = [flag[len("subvol=") :] for flag in root_flags if flag.startswith("subvol=")]
    return f"{uuid} {(named[-1] if named else subvolume or '').strip('/')}"


class Layer:
    """What a layer says of itself: its ``state`` over this root (``FOREIGN``, or one of ``marks``),
    whether a boot with it over any was ``complete``, its ``serial`` and its ``identity``.
    """

    __slots__ = ("complete", "identity", "serial", "state")

    def __init__(self, fd: int, below: str) -> None:
        owner = marks.owner(fd)
        self.complete = marks.state(fd, owner) == marks.BOOT_COMPLETE
        self.state = marks.state(fd, below) if owner in ("", below) else FOREIGN
        self.serial = marks.serial(fd)
        self.identity = marks.identity(fd)


class Uppers:
    """The layers on the volume that is mounted at *volume*, over the root *below* (``below``);
    ``close`` them.

    They are locked meanwhile. Raises ``Locked``, and ``Refused`` if this program did not
    make the existing folder. Without *create* a missing one is not made: ``fd`` or ``old`` is
    -1 then.
    """

    __slots__ = ("below", "fd", "old")

    def __init__(self, volume: str, below: str = "", *, create: bool = True) -> None:
        top = os.open(volume, DIRECTORY)
        self.below = below
        self.old = -1
        try:
            self.fd = _open_own(top, FOLDER, create)
        finally:
            os.close(top)
        if self.fd < 0:
            return
        try:
            lock(self.fd, FOLDER)
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
        """The names of Ephemeroot's in old-uppers, the oldest first; others are foreign."""
        found = [names.parse(text) for text in paths.names(self.old)]
        mine = [n for n in found if n is not None and self._is_directory(str(n))]
        return sorted(mine, key=lambda name: name.identity)

    def present(self) -> Layer | None:
        """The present layer; ``None`` if there is none."""
        try:
            return self._look(self.fd, UPPER)
        except FileNotFoundError:
            return None

    def look(self, name: Name) -> Layer:
        """The retired layer *name*."""
        return self._look(self.old, str(name))

    def _look(self, parent: int, text: str) -> Layer:
        fd = os.open(text, DIRECTORY, dir_fd=parent)
        try:
            return Layer(fd, self.below)
        finally:
            os.close(fd)

    def retire(self, name: Name, free: Callable[[Name], Name]) -> str:
        """Move the present layer to old-uppers as *name*, or the next that is *free*; return it."""
        retired = into_history(self.fd, UPPER, self.old, name, free)
        os.fsync(self.old)
        os.fsync(self.fd)
        return retired

    def make(self, pattern: int, now: float) -> str:
        """Make a new layer, with owner, mode and labels of the open directory *pattern*; return
        its identity (``Layer``).

        *now*, in seconds since 1970, is when. A failure leaves nothing behind.
        """
        removal.remove(self.fd, WORK)
        os.mkdir(WORK, 0o700, dir_fd=self.fd)
        # overlayfs makes one like it, and without the space for that mounts read-only
        # (ovl_make_workdir in fs/overlayfs/super.c).
        os.mkdir(f"{WORK}/work", 0o700, dir_fd=self.fd)
        # Outside of the clean-up: a layer that exists is the previous one.
        os.mkdir(UPPER, 0o700, dir_fd=self.fd)
        try:
            return self._fill(pattern, now)
        except BaseException:
            removal.remove(self.fd, UPPER)
            raise

    def _fill(self, pattern: int, now: float) -> str:
        upper = os.open(UPPER, DIRECTORY, dir_fd=self.fd)
        try:
            marks.set_state(upper, self.below, marks.NEW)
            marks.set_made(upper, now)
            made = marks.set_identity(upper, self._next_serial())
            attributes.copy(pattern, upper)
            os.fsync(upper)
        finally:
            os.close(upper)
        os.fsync(self.fd)
        return made

    def _next_serial(self) -> int:
        """A number above all that were ever given here, to layers that are removed by now too."""
        kept = [self.look(name).serial for name in self.retired()]
        number = max([marks.serial(self.fd), *kept]) + 1
        marks.set_serial(self.fd, number)
        return number

    def clean(self, deadline: float) -> list[str]:
        """Remove the leftovers of earlier runs; the rest at *deadline*
        (``time.monotonic()``) is the next one's. Returns the failures, one line each.
        """
        problems = []
        for text in self._begun():
            try:
                removal.remove(self.old, text, deadline, unlock=True)
            except OSError as error:
                problems.append(f"cannot remove {OLD}/{text}: {error.strerror}: {error.filename}")
        return problems

    def going(self) -> list[Name]:
        """The names of the layers that are being removed: they are not given away meanwhile."""
        found = (names.parse(text.removeprefix(REMOVING)) for text in self._begun())
        return [name for name in found if name is not None]

    def _begun(self) -> list[str]:
        return [text for text in paths.names(self.old) if text.startswith(REMOVING)]

    def space(self) -> tuple[int, int]:
        """Bytes available and bytes in all, on the volume."""
        status = os.fstatvfs(self.old)
        return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize

    def settle(self) -> None:
        """Make removed layers count as free: btrfs does it with its next commit."""
        kernel.sync_filesystem(self.old)

    def _is_directory(self, text: str) -> bool:
        try:
            os.close(os.open(text, DIRECTORY | os.O_PATH, dir_fd=self.old))
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENOENT):
                return False
            raise
        return True


def failed(volume: str, error: OSError) -> EphemerootError:
    """The error for a change of the layers on *volume*, as messages call it, that failed."""
    if error.errno == errno.ENOSPC:
        return EphemerootError(
            f"no space for a new layer on the volume {volume}",
            "delete files there, or old layers with 'ephemeroot roots delete'",
        )
    if error.errno == errno.EDQUOT:
        return EphemerootError(
            f"the quota of the volume {volume} leaves no space for a new layer",
            "raise the quota, or delete files there, or old layers with 'ephemeroot roots delete'",
        )
    return EphemerootError(
        f"cannot make a new layer on the volume {volume}: {error.strerror}",
        "look for the reason in the kernel log ('dmesg'), then check its filesystem with fsck(8)"
        if error.errno in (errno.EROFS, errno.EIO)
        else "",
    )


def condemn(old: int, text: str) -> str:
    """Rename the old upper *text* to a name of removal; return that name."""
    number = 1
    while True:
        # A clock that always begins at the same time gives the same names again.
        removing = f"{REMOVING}{text}" + (f".{number}" if number > 1 else "")
        try:
            immutable.rename(old, text, old, removing, how=paths.RENAME_NOREPLACE)
            return removing
        except FileExistsError:
            number += 1


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
        raise Refused(f"{name} on the volume is not a directory", "move it away") from error
    status = os.fstat(fd)
    if status.st_uid != 0 or status.st_mode & 0o022:
        os.close(fd)
        raise Refused(f"{name} on the volume is writable by other users", "move it away")
    return fd
