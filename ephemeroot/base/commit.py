"""Committing changes of the running root to the base: a merge of three trees.

The first is the tree that the root was made of, the second the running root, the third the base,
which another run may have replaced since. A path is committed where the first and the third are the
same; where they differ, both sides have changed it, and the administrator decides.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ephemeroot.base import kernels
from ephemeroot.errors import EphemerootError
from ephemeroot.linux import bounds, comparison, inode_flags, paths, removal, walk
from ephemeroot.linux.bounds import Meter, OutOfBounds
from ephemeroot.linux.copying import Copier
from ephemeroot.old_roots import noise
from ephemeroot.old_roots.comparison import ADDED, DELETED, Difference, opened
from ephemeroot.old_roots.restore_steps import Place
from ephemeroot.step import Step
from ephemeroot.wipers import attributes

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_KERNELS = "kernels and their modules are installed by a package in the base"
_SECRET = "a secret or an identity of this machine: every root made from the base would have it"
_CONFLICT = "the base has another version since this root was made"


def secrets() -> Callable[[str], bool]:
    """Whether a path is a secret or an identity of one machine (``secrets.txt``)."""
    return noise.matcher(noise.listed(Path(__file__).with_name("secrets.txt")))


@dataclass(slots=True)
class Trees:
    """The open tree ``source`` that is committed, and the open ``copy`` of the base that gets it,
    once there is one.
    """

    source: int
    copy: int = -1


class Merge(Step):
    """One path of the trees' source that is brought into their copy of the base. If that fails the
    copy is thrown away.
    """

    __slots__ = ("path", "trees")

    def __init__(self, trees: Trees, path: str) -> None:
        self.trees = trees
        self.path = path

    @property
    def parent(self) -> str:
        return os.path.dirname(self.path)

    @property
    def name(self) -> str:
        return os.path.basename(self.path)


class Put(Merge):
    """Copy a file, a link or a directory with all that is in it. It warns of each entry that cannot
    be committed.
    """

    __slots__ = ("warnings",)

    def __init__(self, trees: Trees, path: str) -> None:
        super().__init__(trees, path)
        self.warnings: list[str] = []

    def describe(self) -> str:
        return f"commit {self.path}"

    def execute(self) -> str:
        def skipped(inside: str, reason: str) -> None:
            self.warnings.append(
                f"{self.path}/{inside}".rstrip("/") + f" is not committed: {reason}"
            )

        with (
            opened(self.trees.source, self.parent, _DIRECTORY) as source,
            opened(self.trees.copy, self.parent, _DIRECTORY) as target,
        ):
            # Nothing else works in the copy, which is not in its place yet.
            removal.remove(target, self.name, unlock=True)
            try:
                copier = Copier(bounds.attended(), skipped=skipped)
                copier.copy(source, self.name, target, self.name, subvolume=True)
            except OutOfBounds as error:
                raise EphemerootError(
                    f"{self.path} cannot be committed: {error}", "commit some part of it"
                ) from None
        return ""


class Directory(Merge):
    """Give a directory the owner, mode and attributes that it has in the root; make it if it is
    missing.
    """

    __slots__ = ()

    def describe(self) -> str:
        return f"commit the owner, mode and attributes of {self.path}"

    def execute(self) -> str:
        with (
            opened(self.trees.source, self.path, _DIRECTORY) as pattern,
            opened(self.trees.copy, self.parent, _DIRECTORY) as parent,
        ):
            with suppress(FileExistsError):
                os.mkdir(self.name, 0o700, dir_fd=parent)
            with opened(parent, self.name, _DIRECTORY) as made:
                for name in os.listxattr(made):
                    if name.startswith(("user.", "system.posix_acl_")):
                        os.removexattr(made, name)
                attributes.copy(pattern, made)
                inode_flags.begin(pattern, made)
        return ""


class Remove(Merge):
    """Remove what the root does not have any more."""

    __slots__ = ()

    def describe(self) -> str:
        return f"remove {self.path} from the base"

    def execute(self) -> str:
        with opened(self.trees.copy, self.parent, _DIRECTORY) as parent:
            removal.remove(parent, self.name, unlock=True)
        return ""


@dataclass
class Commit:
    """One commit: its ``steps`` in their order. ``left`` are pairs of a path that is not
    committed and the reason; ``same`` is the number of paths that are equal in the base.
    ``conflicts`` are those of ``left`` that ``overwrite`` would commit.

    ``fresh`` is the open tree that the open *root* was made of (``None``: unknown, so each
    difference is attributed to the root), ``base`` the open base. ``skip`` is true for paths that
    are not the root's own: persistent paths and mounts.
    """

    root: int
    fresh: int | None
    base: int
    skip: Callable[[str], bool]
    overwrite: bool = False
    steps: list[Merge] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    same: int = 0
    meter: Meter = field(default_factory=lambda: Meter(bounds.attended()))

    def __post_init__(self) -> None:
        self.trees = Trees(self.root)
        self._is_secret = secrets()
        self._modules = f"/{kernels.folder(self.root) or 'lib/modules'}"

    def plan(self, differences: Iterable[Difference]) -> None:
        """Decide for each of the *differences* between ``fresh`` and ``root``. Raises
        ``EphemerootError`` if that is more than ``meter`` allows.
        """
        for one in differences:
            try:
                self._plan(one)
            except OutOfBounds as error:
                raise EphemerootError(
                    f"{one.path} is too much to compare: {error.reason}", "commit some part of it"
                ) from None
            except OSError as error:
                self.left.append((one.path, error.strerror or str(error)))

    def _plan(self, one: Difference) -> None:
        self._add_parents(one.path)
        if one.change == DELETED:
            self._delete(one.path)
        elif one.kind == "directory" and one.change != ADDED and "kind" not in one.what:
            if not self._is_kept_out(one.path):
                self._set(one.path)
        else:
            self._put(one.path)

    def _add_parents(self, path: str) -> None:
        """Directories above *path* that the base does not have are made as they are in the root."""
        missing: list[Merge] = []
        parent = os.path.dirname(path)
        while parent != "/" and _at(self.base, parent) is None:
            missing.append(Directory(self.trees, parent))
            parent = os.path.dirname(parent)
        if missing:
            planned = {step.path for step in self.steps}
            self.steps += [step for step in reversed(missing) if step.path not in planned]

    def _put(self, top: str) -> None:
        todo = [top]
        while todo:
            path = todo.pop()
            status = _at(self.root, path)
            if status is None or self.skip(path) or self._is_kept_out(path):
                continue
            if stat.S_ISSOCK(status.st_mode):
                self.left.append((path, "a socket is useless without its process"))
                continue
            there = _at(self.base, path)
            directories = stat.S_ISDIR(status.st_mode) and there and stat.S_ISDIR(there.st_mode)
            if stat.S_ISDIR(status.st_mode) and (directories or not self._is_whole(path)):
                if not directories:
                    self.steps.append(Directory(self.trees, path))
                with opened(self.root, path, _DIRECTORY) as fd:
                    todo += [f"{path.rstrip('/')}/{name}" for name in paths.names(fd)]
            elif there is not None and self._same(self.base, path, self.root, path):
                self.same += 1
            elif self._may_change(path):
                self.steps.append(Put(self.trees, path))

    def _delete(self, path: str) -> None:
        if self._is_kept_out(path):
            return
        if _at(self.base, path) is None:
            self.same += 1
        elif self._may_change(path):
            self.steps.append(Remove(self.trees, path))

    def _set(self, path: str) -> None:
        there = _at(self.base, path)
        if there is None or not stat.S_ISDIR(there.st_mode):
            self._conflict(path)
        else:
            self.steps.append(Directory(self.trees, path))

    def _may_change(self, path: str) -> bool:
        """Whether the base has at *path* what the root was made of; else that is a conflict."""
        if self.fresh is None or self._same(self.base, path, self.fresh, path):
            return True
        return self._conflict(path)

    def _conflict(self, path: str) -> bool:
        if not self.overwrite:
            self.conflicts.append(path)
            self.left.append((path, _CONFLICT))
        return self.overwrite

    def _is_kept_out(self, path: str) -> bool:
        if self._is_secret(path):
            self.left.append((path, _SECRET))
        elif f"{path}/".startswith((f"{self._modules}/", "/boot/")):
            self.left.append((path, _KERNELS))
        else:
            return False
        return True

    def _is_whole(self, path: str) -> bool:
        """Whether all that is below *path* in the root may be committed."""
        with opened(self.root, os.path.dirname(path), _DIRECTORY) as parent:
            for inside, _ in walk.below(parent, os.path.basename(path), self.meter):
                found = f"{path.rstrip('/')}/{inside}"
                if self.skip(found) or self._is_secret(found):
                    return False
        return True

    def _same(self, one: int, path: str, other: int, other_path: str) -> bool:
        """Whether both have the same there, or neither has anything."""
        statuses = _at(one, path), _at(other, other_path)
        if None in statuses:
            return statuses == (None, None)
        with (
            opened(one, os.path.dirname(path), _DIRECTORY) as first,
            opened(other, os.path.dirname(other_path), _DIRECTORY) as second,
        ):
            name = os.path.basename(path)
            return comparison.same_tree(first, name, second, name, self.meter)


def _at(root: int, path: str) -> os.stat_result | None:
    return Place(root, path, path).status()
