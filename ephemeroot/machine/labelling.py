"""Labels of SELinux's policy for the files that verbs create in a root and in a store.

A new entry gets the label of its directory from the kernel, or none if SELinux is off. The label of
a copied file, and a label that an administrator has set with chcon(1), are kept.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ephemeroot.hooks.records import MARKER, STATE
from ephemeroot.linux import paths, walk, workshop
from ephemeroot.linux.bounds import Bounds, Meter, OutOfBounds
from ephemeroot.linux.mounts import fd_path
from ephemeroot.machine import files
from ephemeroot.machine.labels import Labels

ATTRIBUTE = "security.selinux"

CONFIGURATION = "etc/ephemeroot"

_UNLABELLED = "unlabeled_t"
_PATH = os.O_PATH | os.O_NOFOLLOW
_MOST = 1 << 20
# A filesystem without labels, one that is read-only, a user or a domain that may not change them.
_CANNOT = (errno.EOPNOTSUPP, errno.EROFS, errno.EPERM, errno.EACCES)


def label_of(fd: int) -> str | None:
    """The label of the open *fd*; ``None`` if it has none."""
    try:
        return os.fsdecode(os.getxattr(fd_path(fd), ATTRIBUTE).rstrip(b"\0"))
    except OSError:
        return None


def kind_of(label: str | None) -> str:
    """The type in a label, which rules are about; empty without a label."""
    return f"{label or ''}:::".split(":")[2]


@dataclass(frozen=True, slots=True)
class Different:
    """The entry *name* has the type ``present``, and the policy wants the type ``wanted``."""

    name: str
    present: str
    wanted: str


class Labelling:
    """Gives the labels of a policy to entries of the open directory *top*, whose final path is
    *final*; without a policy nothing is done.
    """

    def __init__(self, labels: Labels, top: int, final: str = "/") -> None:
        self._labels = labels
        self._top = top
        self._final = final.rstrip("/")

    def missing(self, candidates: Iterable[str]) -> list[str]:
        """Those of the *candidates* (relative to the top) that do not exist."""
        if not self._labels.are_known:
            return []
        return [name for name in candidates if not files.exists_beneath(self._top, name)]

    def settle(self, names: Iterable[str]) -> None:
        """Label those of *names* that exist and still have the label of their creation, or none."""
        if not self._labels.are_known:
            return
        for name in names:
            self._settle(name.strip("/") or ".")

    def settle_below(self, name: str) -> None:
        """The same for the entry *name* and for all entries under it."""
        if self._labels.are_known:
            for path in self._all(name):
                self._settle(path)

    def settle_own(self) -> None:
        """The same for our own records and for the configuration."""
        self.settle([MARKER])
        self.settle_below(STATE)
        self.settle_below(CONFIGURATION)

    def different(self, names: Iterable[str]) -> list[Different]:
        """Those of *names* whose type differs from the policy's. The next boot labels entries
        without a label, and a customizable type (customizable_types(5)) is the administrator's
        choice; both are left out.
        """
        found = []
        for name in names if self._labels.are_known else ():
            try:
                fd = paths.open_beneath(self._top, name or ".", _PATH)
            except OSError:
                continue
            try:
                found += self._compare(fd, name)
            finally:
                os.close(fd)
        return found

    def different_itself(self) -> list[Different]:
        """The same for the top, which may be a file or a link, under its final path."""
        return [Different(self._final, one.present, one.wanted)
                for one in self._compare(self._top, "")]  # fmt: skip

    def _compare(self, fd: int, name: str) -> list[Different]:
        kind = stat.S_IFMT(os.fstat(fd).st_mode)
        present = kind_of(label_of(fd))
        wanted = kind_of(self._labels.of_path(self._path(name or "."), kind))
        if not (present and wanted) or present == wanted or present in self._labels.customizable:
            return []
        return [Different(name, present, wanted)]

    def moved(self, name: str, before: str) -> None:
        """Label the entry *name* and all entries under it, copied from the path *before*: an entry
        with the policy's label for its old path gets the label for its final path.
        """
        if self._labels.are_known:
            for path in self._all(name):
                self._settle(path, f"{before}{path[len(name) :]}")

    def _all(self, name: str) -> Iterator[str]:
        """The entry *name* and all entries under it, parents first."""
        yield name
        directory, _, last = name.rpartition("/")
        try:
            fd = paths.open_beneath(self._top, directory or ".", os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return
        try:
            for inside, _ in walk.below(fd, last, Meter(Bounds(entries=_MOST))):
                yield f"{name}/{inside}"
        except (OSError, OutOfBounds):
            pass  # it is not a directory, or is gone
        finally:
            os.close(fd)

    def _settle(self, name: str, before: str | None = None) -> None:
        directory, _, last = name.rpartition("/")
        opened: list[int] = []
        try:
            opened.append(paths.open_beneath(self._top, directory or ".", _PATH))
            opened.append(paths.open_beneath(opened[0], last, _PATH))
            self._give(opened[0], opened[1], name, before)
        except OSError as error:
            if error.errno not in (*_CANNOT, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
                raise
        finally:
            for fd in opened:
                os.close(fd)

    def _give(self, parent: int, fd: int, name: str, before: str | None) -> None:
        status = os.fstat(fd)
        # A user could have exchanged it for something else.
        if not workshop.is_certain(parent, status, os.fstat(parent).st_uid):
            return
        kind = stat.S_IFMT(status.st_mode)
        wanted = self._labels.of_path(self._path(name), kind)
        present = label_of(fd)
        if wanted is None or present == wanted:
            return
        by_itself = {"", _UNLABELLED, kind_of(label_of(parent))}
        if before is not None:
            by_itself.add(kind_of(self._labels.of_path(before, kind)))
        if kind_of(present) in by_itself:
            os.setxattr(fd_path(fd), ATTRIBUTE, os.fsencode(wanted) + b"\0")

    def _path(self, name: str) -> str:
        return f"{self._final}/{name}" if name != "." else self._final or "/"


def settle(labels: Labels, top: str, final: str, names: Iterable[str]) -> None:
    """Label *names* in the directory *top*, whose final path is *final*: ``Labelling.settle``."""
    if labels.are_known:
        with _Open(top) as fd:
            if fd >= 0:
                Labelling(labels, fd, final).settle(names)


class New:
    """Labels the *candidates* that are created in a directory in the ``with`` block, and our own
    records in it: ``with New(labels, [(top, candidates)]):``. *rewritten* are existing files that
    are replaced by new files.
    """

    def __init__(
        self,
        labels: Labels,
        places: Sequence[tuple[str | os.PathLike[str], Iterable[str]]],
        rewritten: Iterable[str] = (),
    ) -> None:
        self._labels = labels
        self._rewritten = list(rewritten)
        self._places = [(top, list(candidates)) for top, candidates in places]
        self._missing: list[tuple[str | os.PathLike[str], list[str]]] = []

    def __enter__(self) -> New:
        if self._labels.are_known:
            for top, candidates in self._places:
                with _Open(top) as fd:
                    missing = Labelling(self._labels, fd).missing(candidates) if fd >= 0 else []
                    self._missing.append((top, missing if fd >= 0 else candidates))
        return self

    def __exit__(self, *_: object) -> None:
        for top, missing in self._missing:
            with _Open(top) as fd:
                if fd >= 0:
                    labelling = Labelling(self._labels, fd)
                    # Parents first: a new entry is compared with its directory.
                    labelling.settle(sorted(missing, key=lambda name: name.count("/")))
                    labelling.settle(self._rewritten)
                    labelling.settle_own()


def give_records_the_label_of_their_directory(top: int) -> None:
    """Label our own records in the open *top* without looking at the policy: it has one label for
    all of them. The kernel does that itself unless SELinux is off.
    """
    try:
        folder = paths.open_beneath(top, STATE, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        label = label_of(folder)
        for name, _ in walk.below(top, STATE, Meter(Bounds(entries=_MOST))) if label else ():
            fd = paths.open_beneath(folder, name, _PATH)
            try:
                if label and label_of(fd) is None:
                    os.setxattr(fd_path(fd), ATTRIBUTE, os.fsencode(label) + b"\0")
            finally:
                os.close(fd)
    except (OSError, OutOfBounds):
        pass  # the next boot does it
    finally:
        os.close(folder)


class _Open:
    """The directory *top*, open; -1 if there is none."""

    def __init__(self, top: str | os.PathLike[str]) -> None:
        self._top = top
        self._fd = -1

    def __enter__(self) -> int:
        try:
            self._fd = os.open(self._top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1
        return self._fd

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
