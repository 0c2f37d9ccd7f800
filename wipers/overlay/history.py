"""The history of an overlay root: retired upper layers, each shown over its lower directory."""

from __future__ import annotations

import errno
import os
import stat
import time

from ephemeroot.errors import EphemerootError
from ephemeroot.linux import devices, mountinfo, mounts, paths, removal
from ephemeroot.linux.walk import Walk
from ephemeroot.wipers import marks, names, retire
from ephemeroot.wipers.history import History, require_mountable
from ephemeroot.wipers.oldroot import FOREIGN, RETIRED, Facts, OldRoot
from ephemeroot.wipers.overlay import stack, uppers
from ephemeroot.wipers.overlay.uppers import Layer
from ephemeroot.wipers.placement import Places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ephemeroot.wipers.history import Installed
    from ephemeroot.wipers.names import Name
    from ephemeroot.wipers.overlay.uppers import Uppers
    from ephemeroot.wipers.retention import Policy


class UpperHistory(History):
    """The old uppers of *layers* (``None``: they are in memory and not kept).

    ``fstype`` is the type of the installed root, whose device *installed* names.
    """

    SNAPSHOTS = True

    __slots__ = ("fstype", "installed", "layers", "places")

    def __init__(
        self,
        layers: Uppers | None,
        installed: Installed,
        fstype: str,
        policy: Policy | None = None,
        min_free: int = 0,
    ) -> None:
        where = f"{uppers.FOLDER}/{uppers.OLD}"
        super().__init__(where, policy, min_free, installed.system)
        self.layers = layers
        self.installed = installed
        self.fstype = fstype
        self.places = Places(installed.private)

    def __enter__(self) -> UpperHistory:
        return self

    def close(self) -> None:
        self.places.close()
        if self.layers is not None:
            self.layers.close()

    @property
    def _old(self) -> int:
        if self.layers is None:
            raise EphemerootError("a layer in memory leaves no old root")
        return self.layers.old

    def entries(self) -> list[OldRoot]:
        if self.layers is None or self.layers.old < 0:
            return []
        ours = {str(name): name for name in self.layers.retired()}
        found = []
        for text in paths.names(self.layers.old):
            layer = self.layers.look(ours[text]) if text in ours else None
            if layer is not None and layer.state != uppers.FOREIGN:
                found.append(OldRoot(text, RETIRED, layer.serial, ours[text]))
            elif not text.startswith(uppers.REMOVING):
                found.append(OldRoot(text, FOREIGN))
        return sorted(self.owned(found), key=lambda entry: (entry.kind, entry.label))

    def newest_complete(self) -> OldRoot | None:
        """The same; a layer that does not say which root is below is not seeded from."""
        found = [
            entry for entry in self.retired() if self.layer(entry).state == marks.BOOT_COMPLETE
        ]
        return max(found, key=lambda entry: entry.serial, default=None)

    def layer(self, entry: OldRoot) -> Layer:
        """What the layer of *entry* says of itself."""
        fd = self._open(entry)
        try:
            return Layer(fd, self.layers.below if self.layers is not None else "")
        finally:
            os.close(fd)

    def owner(self) -> str:
        return self.layers.owner() if self.layers is not None else ""

    def set_owner(self, system: str) -> None:
        if self.layers is not None and self.layers.fd >= 0:
            marks.set_system(self.layers.fd, system)

    def free(self, wanted: Name) -> Name:
        going = self.layers.going() if self.layers is not None and self.layers.old >= 0 else []
        return names.free(super().free(wanted), {name.identity for name in going})

    def has_first(self) -> bool:
        """The first layer is not special: the installed root is below, and is never retired."""
        return True

    def path(self, entry: OldRoot) -> str:
        return f"{self.where}/{entry.text}"

    def facts(self, entry: OldRoot) -> Facts:
        fd = self._open(entry)
        try:
            state = marks.state(fd, marks.owner(fd))
            size = _usage(fd)
            return Facts(made=marks.made(fd), state=state, size=size, exclusive=size)
        finally:
            os.close(fd)

    def measure(self, entry: OldRoot, deadline: float) -> int | None:
        fd = self._open(entry)
        try:
            return _usage(fd, deadline)
        finally:
            os.close(fd)

    def open_layer(self, entry: OldRoot | None) -> int:
        """The open directory of the layer of *entry*, of the present one if that is ``None``."""
        if entry is not None:
            return self._open(entry)
        if self.layers is None:
            raise EphemerootError("a layer in memory leaves no old root")
        return os.open(uppers.UPPER, uppers.DIRECTORY, dir_fd=self.layers.fd)

    def _open(self, entry: OldRoot) -> int:
        try:
            return os.open(entry.text, uppers.DIRECTORY, dir_fd=self._old)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise EphemerootError(f"{self.path(entry)} was replaced") from error
            raise

    # Looking into it

    def mount(self, entry: OldRoot) -> int:
        """What the root was: the old upper over the installed root as it is now."""
        require_mountable(entry)
        upper = self._open(entry)
        try:
            above = self.places.attach(mounts.clone_read_only(upper, name=entry.text), "above")
        finally:
            os.close(upper)
        below = self.places.attach(self.mount_base(), "below")
        # ``prove`` knows the mount by its source. Neither path has a colon in it.
        options = [*stack.OPTIONS, f"lowerdir={above}:{below}", "ro"]
        return mounts.create("overlay", f"{uppers.OLD}/{entry.text}", options)

    def mount_base(self) -> int:
        """The installed root."""
        device = devices.named(self.installed.device)
        return stack.installed(self.fstype, device, self.installed.root_flags)

    def changed_since(self) -> Callable[[str, int], bool] | None:
        """What the present layer has in it, and the directories above."""
        if self.layers is None or self.layers.fd < 0:
            return None
        mounted = mountinfo.mounted_at(os.path.realpath(self.installed.live))
        if mounted is None or mounted.fstype != "overlay":
            return None
        upper = os.open(uppers.UPPER, uppers.DIRECTORY, dir_fd=self.layers.fd)
        try:
            made = marks.made(upper)
            if made is None or made != _made_at(self.installed.live):
                return None
            found = _paths_in(upper)
        finally:
            os.close(upper)
        return lambda path, inode: path in found

    # What retention asks, and what becomes of an old root

    def seen(self) -> int:
        return marks.seen(self.layers.old) if self.layers and self.layers.old >= 0 else 0

    def record_seen(self, now: int) -> None:
        if self.layers is not None and self.layers.old >= 0:
            marks.set_seen(self.layers.old, now)

    def space(self) -> tuple[int, int]:
        if self.layers is None:
            raise EphemerootError("a layer in memory leaves no old root")
        return self.layers.space()

    def settle(self, deadline: float) -> None:
        if self.layers is not None and self.layers.old >= 0:
            self.layers.settle()

    def rename(self, entry: OldRoot, name: Name) -> str:
        os.close(self._open(entry))
        return retire.into_history(self._old, entry.text, self._old, name, self.free)

    def prove(self, entry: OldRoot) -> None:
        os.close(self._open(entry))
        wanted = entry.name.identity if entry.name is not None else None
        for text in mountinfo.everywhere():
            for mount in mountinfo.mounts(text):
                folder, _, name = mount.source.rpartition("/")
                if mount.fstype == "overlay" and folder == uppers.OLD:
                    mounted = names.parse(name)
                    if mounted is not None and mounted.identity == wanted:
                        raise EphemerootError(f"old root {entry.label} is mounted",
                                              "unmount it first")  # fmt: skip

    def delete(self, entry: OldRoot) -> None:
        self.prove(entry)
        # First the name: a half removed layer must not look like a previous root.
        text = uppers.condemn(self._old, entry.text)
        removal.remove(self._old, text, self.deadline, unlock=True)

    def commit(self) -> None:
        if self.layers is not None and self.layers.old >= 0:
            os.fsync(self.layers.old)


def _made_at(live: str) -> float | None:
    """When the layer above the overlay mounted at *live* was made: its marks show through."""
    fd = os.open(live, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return marks.made(fd)
    finally:
        os.close(fd)


def _usage(fd: int, deadline: float | None = None) -> int | None:
    """Bytes on the disk of everything below the open directory; ``None`` if *deadline* passes."""
    total = os.fstat(fd).st_blocks * 512
    seen = set()
    for _, status in _everything(fd):
        if deadline is not None and time.monotonic() > deadline:
            return None
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            if status.st_ino in seen:
                continue
            seen.add(status.st_ino)
        total += status.st_blocks * 512
    return total


def _paths_in(upper: int) -> set[str]:
    """The absolute paths of everything in a layer."""
    return {"/", *(path for path, _ in _everything(upper))}


def _everything(top: int) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below the open directory *top*, however deep: absolute paths from it, and what
    each is. (os.fwalk recurses.)
    """
    for name in paths.names(top):
        yield from _entries(top, name)


def _entries(top: int, name: str) -> Iterator[tuple[str, os.stat_result]]:
    status = os.stat(name, dir_fd=top, follow_symlinks=False)
    yield f"/{name}", status
    if not stat.S_ISDIR(status.st_mode):
        return
    here = Walk(top, name)
    try:
        left = [paths.names(here.fd)]
        while left:
            if not left[-1]:
                left.pop()
                here.leave()
                continue
            name = left[-1].pop()
            status = os.stat(name, dir_fd=here.fd, follow_symlinks=False)
            yield f"/{here.path}/{name}", status
            if stat.S_ISDIR(status.st_mode):
                here.enter(name)
                left.append(paths.names(here.fd))
    finally:
        here.close()
