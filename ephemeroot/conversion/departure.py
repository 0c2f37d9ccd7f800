"""Out again: the declared paths go back into the root, and no image wipes any more.

The order is the safety. First everything is copied into the root under the binds, while the
machine is armed as ever: whoever cuts the power then boots a fresh root, and all data is in the
stores. Then the root gets a record of what is under way, and the stores a plan that does nothing,
of a newer generation: from that moment on no older image wipes or binds, whatever becomes of the
images. What programs have changed in the stores meanwhile is brought over by the first boot
(``finish``), before anything reads it; what was changed in the root since is never overwritten.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ephemeroot.conversion.mirror import Mirror, open_directory
from ephemeroot.errors import Damaged, EphemerootError, Refused, StoreMissing
from ephemeroot.hooks import plan as plans
from ephemeroot.hooks import seed, tree
from ephemeroot.hooks.directories import Directory
from ephemeroot.hooks.files import File
from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.overlays import Overlay
from ephemeroot.hooks.plan import Plan
from ephemeroot.hooks.volumes import MARKER, Store, Volume
from ephemeroot.hooks.wipe import Wipe
from ephemeroot.image import applied, stores
from ephemeroot.linux import copying, devices, kernel, mountinfo, mounts, paths
from ephemeroot.linux.copying import Copier

RECORD = ".ephemeroot/leaving.json"
"""In the root, from the moment on at which everything is in it until the first boot after."""

FAILED = ".ephemeroot/leaving-failed.json"

FORMAT = "ephemeroot-leaving"
VERSION = 1

_TAKEN = (Directory, File, Overlay)


@dataclass(frozen=True, slots=True)
class Item:
    """One declared path on its way back: ``path`` in the root, from ``source`` in ``store``."""

    operation: Directory | File | Overlay

    @property
    def path(self) -> str:
        """Where the machine has it."""
        return self.operation.path

    def describe(self) -> str:
        """One line."""
        where = f"{self.operation.store.rstrip('/')}/{self.operation.source}"
        if isinstance(self.operation, Overlay):
            return f"merge {where} into {self.path}, at the next boot"
        return f"copy {where} back to {self.path} in the root"


@dataclass(slots=True)
class Departure:
    """What leaving comes to on the machine whose root is mounted at ``root``.

    ``plan`` is the applied one. ``problems`` collects what could not be copied: with one of
    them nothing is disarmed.
    """

    root: Path
    plan: Plan
    problems: list[str] = field(default_factory=list)
    copier: Copier = field(default_factory=Copier)

    def items(self) -> list[Item]:
        """The declared paths that have to be copied, parents first. What is copied at every
        boot (``method = "copy"``, machine-id) the root has as its own already.
        """
        return [Item(o) for o in self.plan.persist if isinstance(o, _TAKEN)]

    def prove(self) -> None:
        """Raise ``Refused`` or ``StoreMissing`` if this root is none to leave into, or a store
        is not there.
        """
        mount = mountinfo.mounted_at(os.path.realpath(self.root))
        if mount is None:
            raise Refused(f"{self.root} is no mount point: it is not the root of a machine")
        if mount.fstype == "overlay":
            raise Refused(
                "the root is an overlay: what is copied into it would be gone after the boot",
                "run 'ephemeroot next-boot keep', reboot, and leave from there",
            )
        if mount.fstype in ("tmpfs", "ramfs"):
            raise Refused(
                "the root is in memory: there is no root to copy anything back into",
                "boot an installed root (root= on the kernel command line), and leave from there",
            )
        if "ro" in mount.options:
            raise Refused("the root is mounted read-only", f"mount -o remount,rw {self.root}")
        for path, fd in self._open_stores().items():
            os.close(fd)
            if os.path.realpath(self.root / path.lstrip("/")) == os.path.realpath(self.root):
                raise Refused(f"the store {path} is the root itself")

    def _open_stores(self) -> dict[str, int]:
        """The stores of the plan, open, each proven by its marker."""
        return open_stores(self.root, self.plan)

    def copy(self, item: Item) -> str:
        """Copy one path into the root, under its bind; say how much had to be done.

        Nothing that is alike already is touched. What fails is a problem and does not stop
        the others.
        """
        if isinstance(item.operation, Overlay):
            return "waits for the next boot"
        opened = self._open_stores()
        root = bare_root(self.root)
        mirror = Mirror(excluded=self.below(item), copier=self.copier)
        try:
            _bring(mirror, item.operation, opened[item.operation.store], root, item.path)
        except (OSError, EphemerootError) as error:
            line = f"{item.describe()}: {_reason(error)}"
            self.problems.append(line)
            return f"failed: {_reason(error)}"
        finally:
            for fd in (root, *opened.values()):
                os.close(fd)
        count = len(mirror.changed) + len(mirror.removed)
        return f"{count} changes" if count else "is there already"

    def below(self, item: Item) -> list[str]:
        """What other declarations have below that path, relative to it."""
        prefix = item.path.rstrip("/") + "/"
        below = (o.path for o in self.plan.persist if isinstance(o, _TAKEN))
        return [path[len(prefix) :] for path in below if path.startswith(prefix)]

    def disarm(self) -> str:
        """From here on no image of this plan wipes or binds. Everything is in the root."""
        if self.problems:
            raise EphemerootError(
                "something could not be copied back: nothing was disarmed, the machine boots as "
                f"ever: {self.problems[0]}",
                "mend it and run 'ephemeroot leave' again",
            )
        root = bare_root(self.root)
        try:
            _remove(root, applied.PLAN.lstrip("/"))
            _write(root, RECORD, self._record())
            _sync(root)
        finally:
            os.close(root)
        places = [self.root / o.path.lstrip("/") for o in self.plan.wipe if isinstance(o, Store)]
        newest = max([self.plan.generation, *(stores.generation(place) for place in places)])
        nothing = Plan(
            wipe=[o for o in self.plan.wipe if not isinstance(o, Wipe)],
            persist=[],
            on_failure=self.plan.on_failure,
            generation=newest + 1,
            host=self.plan.host,
            seed_limit=self.plan.seed_limit,
        )
        for place in places:
            stores.record(place, nothing.dump(), nothing.generation)
        live = applied.path(self.root)
        live.unlink(missing_ok=True)
        paths.sync_directory(str(live.parent))
        return f"generation {nothing.generation} does nothing"

    def _record(self) -> bytes:
        content = {
            "format": FORMAT,
            "version": VERSION,
            "since": time.time_ns(),
            "plan": self.plan.dump().decode("ascii"),
        }
        return json.dumps(content).encode() + b"\n"


def with_adopted(root: Path, plan: Plan, configured: Plan) -> Plan:
    """*plan* with what *configured* has beside it and this machine has bound already: adopted,
    and not applied yet. What is not bound is the root's own as it is.
    """
    known = applied.declared(plan)
    there = {o.path for o in plan.wipe if isinstance(o, Store)}
    adopted = [
        o
        for o in configured.persist
        if isinstance(o, Directory | File)
        and o.path not in known
        and o.store in there
        and _is_bound(root, o)
    ]
    return Plan(
        wipe=plan.wipe,
        persist=[*plan.persist, *adopted],
        on_failure=plan.on_failure,
        generation=plan.generation,
        host=plan.host,
        seed_limit=plan.seed_limit,
    )


def _is_bound(root: Path, operation: Directory | File) -> bool:
    try:
        live = root / operation.path.lstrip("/")
        return live.samefile(root / operation.store.lstrip("/") / operation.source)
    except OSError:
        return False


def open_stores(root: Path, plan: Plan, where: dict[str, Path] | None = None) -> dict[str, int]:
    """The stores of *plan* on the machine below *root*, open, each proven by its marker.

    *where* says where one is mounted if not at its own place. Raises ``StoreMissing``.
    """
    opened: dict[str, int] = {}
    try:
        for operation in plan.wipe:
            if not isinstance(operation, Store):
                continue
            place = (where or {}).get(operation.path, root / operation.path.lstrip("/"))
            try:
                fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                raise StoreMissing(
                    f"the store {operation.path} is not there: {error.strerror}", "mount its volume"
                ) from error
            opened[operation.path] = fd
            found = operation.read_marker(fd)
            if found != operation.id:
                raise StoreMissing(f"{place} is another store ({found})", "mount the right one")
    except BaseException:
        for fd in opened.values():
            os.close(fd)
        raise
    return opened


def bare_root(root: Path) -> int:
    """The root, open, without anything that is mounted in it: what lies under the binds."""
    opened = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        clone = mounts.clone(opened, name=str(root))
    finally:
        os.close(opened)
    try:
        # The descriptor of a mount is O_PATH; reading it needs another one.
        return os.open(mounts.fd_path(clone), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(clone)


def _bring(
    mirror: Mirror, operation: Directory | File | Overlay, store: int, root: int, path: str
) -> None:
    """Make what *root* has at *path* like what the store has, a link into the store too."""
    place = tree.resolve(root, os.path.dirname(path)).rstrip("/") + "/" + os.path.basename(path)
    parent, name = tree.open_parent(root, place)
    try:
        there = _lstat(parent, name)
        if there is None or not stat.S_ISLNK(there.st_mode):
            _fill(mirror, operation, store, parent, name)
        elif os.readlink(name, dir_fd=parent) == _in_store(operation):
            _replace_link(mirror, operation, store, parent, name)
        else:
            # The administrator's own link, such as /var/run: it leads somewhere in the root.
            os.close(parent)
            parent, name = tree.open_parent(root, tree.resolve(root, path))
            _fill(mirror, operation, store, parent, name)
    finally:
        os.close(parent)


def _in_store(operation: Directory | File | Overlay) -> str:
    return f"{operation.store.rstrip('/')}/{operation.source}"


def _replace_link(
    mirror: Mirror, operation: Directory | File | Overlay, store: int, parent: int, name: str
) -> None:
    """In the place of a link into the store put what it leads to, at once and whole."""
    temporary = f".ephemeroot-new-{os.urandom(8).hex()}"
    try:
        _fill(mirror, operation, store, parent, temporary)
        if _lstat(parent, temporary) is None:
            os.unlink(name, dir_fd=parent)  # it led nowhere: the machine had no such file
        else:
            paths.rename(parent, temporary, parent, name, flags=paths.RENAME_EXCHANGE)
    finally:
        copying.remove(parent, temporary)


def _fill(
    mirror: Mirror, operation: Directory | File | Overlay, store: int, parent: int, name: str
) -> None:
    if isinstance(operation, File):
        _fill_file(mirror, operation, store, parent, name)
    else:
        _fill_directory(mirror, operation, store, parent, name)


def _fill_file(mirror: Mirror, operation: File, store: int, parent: int, name: str) -> None:
    try:
        source = paths.open_beneath(store, operation.source, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISREG(os.fstat(source).st_mode):
            raise EphemerootError(f"{operation.source} in the store is no regular file")
        if _lstat(parent, name) is None:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=parent))
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
        target = os.open(name, flags, dir_fd=parent)
        try:
            mirror.file(source, target, operation.path)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _fill_directory(
    mirror: Mirror, operation: Directory | Overlay, store: int, parent: int, name: str
) -> None:
    try:
        source = open_directory(store, operation.source)
    except FileNotFoundError:
        return
    try:
        if _lstat(parent, name) is None:
            os.mkdir(name, 0o700, dir_fd=parent)
        target = open_directory(parent, name)
        try:
            mirror.tree(source, target)
        finally:
            os.close(target)
    finally:
        os.close(source)


# The first boot after


@dataclass(slots=True)
class Finish:
    """What the record in the root at ``root`` asks of the first boot after leaving.

    ``private`` is an empty directory for mounts of our own. ``kept`` lists what was changed
    in the root since and so was not overwritten.
    """

    root: Path
    private: Path
    kept: list[str] = field(default_factory=list)
    changed: int = 0

    def run(self, log: Callable[[str], None]) -> bool:
        """Bring over what the stores have and the root does not; whether there was a record.

        What fails is raised, and never tried again: the next boot would bring what is old.
        """
        record = read(self.root)
        if record is None:
            return False
        plan, since = record
        booted = applied.booted() if self.root == Path("/") else None
        if booted is not None and applied.declared(booted):
            raise Refused("this boot has bound the declared paths: it was none after leaving")
        try:
            self._bring_all(plan, since, log)
        except BaseException:
            os.rename(self.root / RECORD, self.root / FAILED)
            raise
        (self.root / RECORD).unlink()
        applied.path(self.root).unlink(missing_ok=True)
        root = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _sync(root)
        finally:
            os.close(root)
        return True

    def _bring_all(self, plan: Plan, since: int, log: Callable[[str], None]) -> None:
        departure = Departure(self.root, plan)
        with_places = _find_stores(self.root, plan, self.private)
        opened = open_stores(self.root, plan, with_places)
        root = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for item in departure.items():
                mirror = Mirror(excluded=departure.below(item), since=since)
                store = opened[item.operation.store]
                if isinstance(item.operation, Overlay):
                    _merge(mirror, item.operation, store, root, self.private)
                elif not _is_ours_by_now(item.operation, root):
                    _bring(mirror, item.operation, store, root, item.path)
                count = len(mirror.changed) + len(mirror.removed)
                self.changed += count
                self.kept += [f"{item.path}/{path}".rstrip("/") for path in mirror.kept]
                if count:
                    log(f"{item.path}: {count} changes brought over")
            _remove(root, applied.PLAN.lstrip("/"))
        finally:
            for fd in (root, *opened.values()):
                os.close(fd)


def read(root: Path) -> tuple[Plan, int] | None:
    """The plan that is being left and the time up to which the root was filled (nanoseconds),
    ``None`` if the root at *root* has no such record. Raises ``Damaged``.
    """
    path = root / RECORD
    try:
        content = json.loads(path.read_bytes())
        if content.get("format") != FORMAT or content.get("version") != VERSION:
            raise Damaged(f"{path} is no record of leaving that this program knows")
        return plans.parse(content["plan"].encode("ascii"), str(path)), int(content["since"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise Damaged(f"{path} is damaged: {error}", "compare the store by hand") from None


def _is_ours_by_now(operation: Operation, root: int) -> bool:
    """A link into the store became a copy when leaving: since then the root's is the right one."""
    return getattr(operation, "method", "") == "symlink"


def _find_stores(root: Path, plan: Plan, private: Path) -> dict[str, Path]:
    """Where each store is mounted; one that nothing has mounted is mounted below *private*."""
    found: dict[str, Path] = {}
    volumes = {o.name: o for o in plan.wipe if isinstance(o, Volume)}
    for operation in plan.wipe:
        if not isinstance(operation, Store):
            continue
        place = root / operation.path.lstrip("/")
        if (place / MARKER).exists():
            continue
        volume = volumes[operation.volume]
        point = private / volume.name
        if not os.path.ismount(point):
            point.mkdir(parents=True, exist_ok=True)
            mount = mounts.create(volume.type, _device(volume), volume.options)
            try:
                target = os.open(point, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    mounts.attach(mount, target, name=str(point))
                finally:
                    os.close(target)
            finally:
                os.close(mount)
        found[operation.path] = point / operation.below
    return found


def _device(volume: Volume) -> str:
    try:
        return devices.link(volume.device)
    except ValueError:
        return volume.device  # a dataset, a share


def _merge(mirror: Mirror, operation: Overlay, store: int, root: int, private: Path) -> None:
    """Mount the overlay once more, in private, and make the root's directory like it."""
    place = tree.resolve(root, operation.path)
    if not tree.is_directory(store, operation.source):
        return
    parent, name = tree.open_parent(root, place)
    try:
        lower = open_directory(parent, name)
        try:
            merged = _merged(operation, store, lower, private)
            try:
                temporary = f".ephemeroot-new-{os.urandom(8).hex()}"
                os.mkdir(temporary, 0o700, dir_fd=parent)
                target = open_directory(parent, temporary)
                try:
                    mirror.tree(merged, target)
                finally:
                    os.close(target)
            finally:
                os.close(merged)
        finally:
            os.close(lower)
        mounts.detach(str(private / "merged"))
        paths.rename(parent, temporary, parent, name, flags=paths.RENAME_EXCHANGE)
        copying.remove(parent, temporary)
    finally:
        os.close(parent)


def _merged(operation: Overlay, store: int, lower: int, private: Path) -> int:
    upper = open_directory(store, operation.source)
    try:
        options = ["lowerdir=" + mounts.fd_path(upper) + ":" + mounts.fd_path(lower), "ro"]
        mount = mounts.create("overlay", "overlay", options)
    finally:
        os.close(upper)
    point = private / "merged"
    point.mkdir(parents=True, exist_ok=True)
    try:
        target = os.open(point, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            mounts.attach(mount, target, name=str(point))
        finally:
            os.close(target)
    finally:
        os.close(mount)
    return os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _write(root: int, path: str, content: bytes) -> None:
    seed.write_record(root, path, content)


def _remove(root: int, path: str) -> None:
    try:
        parent, name = tree.open_parent(root, tree.resolve(root, "/" + path))
    except OSError:
        return
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    finally:
        os.close(parent)


def _sync(fd: int) -> None:
    if kernel.libc.syncfs(fd) != 0:
        kernel.raise_errno("syncfs")


def _lstat(directory: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _reason(error: OSError | EphemerootError) -> str:
    if isinstance(error, EphemerootError):
        return error.message
    name = f": {error.filename}" if error.filename else ""
    return f"{error.strerror}{name}"
