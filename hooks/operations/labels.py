"""SELinux labels of what the boot made in the new root and in the stores.

Before systemd loads the policy, new files have no label, and they would be ``unlabeled_t``.
"""

from __future__ import annotations

import errno
import os
import stat

from ephemeroot.hooks.operation import Operation, field
from ephemeroot.hooks.records import MARKER, STATE
from ephemeroot.hooks.stage import RUN
from ephemeroot.linux import mountinfo, mounts, paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ephemeroot.hooks.stage import Stage

ATTRIBUTE = "security.selinux"

RESTORED = "tmpfiles.d/ephemeroot-labels.conf"
"""The file in /run with the paths that systemd-tmpfiles labels by the policy (tmpfiles.d(5))."""

_OPEN = os.O_PATH | os.O_NOFOLLOW

# The kernel relabels each file of a tmpfs when the policy is loaded, whatever its attribute is
# (fs_use_trans); and before that it refuses rootcontext= (security/selinux/hooks.c).
_RELABELLED = ("tmpfs", "ramfs")


class Label(Operation):
    """Give the policy's labels to those of the paths that have none, in the new root and in each
    store: ``directories``, ``files`` and ``links`` are paths of the new root with their labels,
    ``records`` is the label of our own records.
    """

    KIND = "label"
    directories: dict[str, str] = field("table", "the labels of directories", default={})
    files: dict[str, str] = field("table", "the labels of files", default={})
    links: dict[str, str] = field("table", "the labels of symbolic links", default={})
    records: str | None = field("text", "the label of our own records", default=None)

    @property
    def paths(self) -> list[str]:
        """All of them: an operation on several paths comes after those on one."""
        return sorted({*self.directories, *self.files, *self.links})

    def describe(self) -> str:
        return f"give SELinux labels to the new ones of {len(self.paths)} paths"

    def execute(self, stage: Stage) -> str:
        """Mount points are covered by now: they are looked at in a copy of the root's own mount."""
        top = mounts.clone(stage.root(), name=stage.target)
        try:
            done = self._label(top)
        finally:
            os.close(top)
        done += sum(self._label(stage.store(store.path)) for store in stage.plan.stores())
        self._leave_to_tmpfiles(stage)
        return f"{done} labelled"

    def label_records(self, stage: Stage) -> None:
        """Label our own records, which are written last. Raises ``OSError``."""
        for top in (stage.root(), *(stage.store(store.path) for store in stage.plan.stores())):
            self._label_records(top)

    def _label(self, top: int) -> int:
        return sum(_give(top, path, kind, label) for path, kind, label in self._wanted())

    def _wanted(self) -> Iterator[tuple[str, int, str]]:
        tables = (stat.S_IFDIR, self.directories), (stat.S_IFREG, self.files)
        for kind, table in (*tables, (stat.S_IFLNK, self.links)):
            for path, label in table.items():
                if "\0" not in path:  # a plan may be damaged
                    yield path.strip("/") or ".", kind, str(label)

    def _label_records(self, top: int) -> None:
        """Only root can write our own directory, and it has files alone and empty directories."""
        if self.records is None:
            return
        _give(top, MARKER, stat.S_IFREG, self.records)
        _give(top, STATE, stat.S_IFDIR, self.records)
        try:
            folder = paths.open_beneath(top, STATE, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno in _NOT_THERE:
                return
            raise
        try:
            for name in paths.names(folder):
                _give(folder, name, 0, self.records)
        finally:
            os.close(folder)

    def _leave_to_tmpfiles(self, stage: Stage) -> None:
        """A root in memory gets its labels after the policy is loaded."""
        mount = mountinfo.mounted_at(stage.target)
        if mount is None or mount.fstype not in _RELABELLED:
            return
        names = sorted({"/", *self.paths})
        lines = "".join(f'z "{_quoted(name)}" - - -\n' for name in names if "\n" not in name)
        # A simulated boot has a run directory of its own, and leaves that of the machine alone.
        folder = os.path.dirname(RUN) if stage.run == RUN else stage.run
        path = f"{folder}/{RESTORED}"
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        paths.write_atomically(path, os.fsencode(lines), 0o644)


_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV)


def _quoted(name: str) -> str:
    """*name* as tmpfiles.d(5) reads it between quotation marks: it is a pattern of glob(7)."""
    for character in "\\*?[":
        name = name.replace(character, f"\\{character}")
    for character, written in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%")):
        name = name.replace(character, written)
    return name


def _give(top: int, path: str, kind: int, label: str) -> int:
    """Give *path* below the open *top* the *label* if it has none and is of this *kind* of file (0:
    any); 1 if so, else 0.
    """
    try:
        fd = paths.open_beneath(top, path, _OPEN)
    except OSError as error:
        if error.errno in _NOT_THERE:
            return 0
        raise
    try:
        if kind not in (0, stat.S_IFMT(os.fstat(fd).st_mode)):
            return 0
        place = f"/proc/self/fd/{fd}"
        try:
            os.getxattr(place, ATTRIBUTE)
            return 0
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return 0  # a filesystem without labels
            if error.errno != errno.ENODATA:
                raise
        os.setxattr(place, ATTRIBUTE, os.fsencode(label) + b"\0")
        return 1
    finally:
        os.close(fd)
