"""Declared files: bound if the store has them, else a link into the store."""

from __future__ import annotations

import os
import stat

from ephemeroot.errors import EphemerootError
from ephemeroot.hooks import tree
from ephemeroot.hooks.operation import field
from ephemeroot.hooks.operations.directories import attach_bind, bind_shown
from ephemeroot.hooks.operations.linkable import Linkable
from ephemeroot.hooks.store import nesting, order, replaced, seed, unseeded
from ephemeroot.linux import paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.stage import Stage


METHODS = ("auto", "bind", "symlink")


class File(Linkable):
    """Put the store's file ``source`` at ``path``.

    ``method`` ``auto`` binds it if it exists in the store and links to it otherwise, as
    impermanence does; ``bind`` and ``symlink`` insist. A file is never created empty:
    programs take an empty file for a broken one, a dangling link for none. ``user``,
    ``group`` and ``mode`` are for the file when it is seeded; ``None`` keeps the seed's.
    """

    KIND = "file"
    method: str = field(METHODS, "how the root gets it", default=METHODS[0])

    def describe(self) -> str:
        options = f" ({','.join(self.options)})" if self.options else ""
        verb = {"auto": "bind or link", "symlink": "link"}.get(self.method, self.method)
        return f"{verb} file {self.path} from {self.store}{options}"

    def execute(self, stage: Stage) -> str:
        if nesting.is_in_overlay(stage, self):
            return self._show_overlay(stage)
        store = stage.store(self.store)
        settled = replaced.settle(stage, self, self.kinds(stage))
        target = f"{self.store}/{self.source}"
        place = stage.resolve_leaf(self.path)
        parent, name = tree.open_parent(stage.root(), place)
        source = -1
        try:
            # A link of Ephemeroot's persists in a directory that itself is another store's.
            linked = tree.links_to(parent, name, target)
            if not linked:
                self._require_file(stage, parent, name)
            source, seeded = self._have_source(stage, store)
            is_link = self.method == "symlink" or (source >= 0 and not _is_regular(source))
            if is_link or (self.method == "auto" and (source < 0 or linked)):
                if tree.is_in_store(parent, store, self.source):
                    return "persists with its directory"
                result = self._link(stage, source, parent, name, place)
            elif source >= 0:
                if linked:
                    os.unlink(name, dir_fd=parent)
                result = self._bind(stage, source, parent, name, place)
            elif tree.is_in_store(parent, store, self.source):
                return "persists with its directory"
            else:
                raise EphemerootError(
                    f"{self.path} cannot be bound: {self.store}/{self.source} is missing",
                    f'create {self.store}/{self.source}, or use method = "auto"',
                )
            return " and ".join(filter(None, (settled, seeded, result)))
        finally:
            for fd in (parent, source):
                if fd >= 0:
                    os.close(fd)

    def kinds(self, stage: Stage) -> tuple[int, ...]:
        """Everything that can be seeded. A user's file may be a directory, which is linked."""
        if stage.plan.owner(self.path) != order.ROOT and self.method in ("auto", "symlink"):
            return stat.S_IFREG, stat.S_IFDIR
        return (stat.S_IFREG,)

    def _require_file(self, stage: Stage, parent: int, name: str) -> None:
        """Raise an error if the root has something else: before the store gets a file for it."""
        kind = tree.kind_of(parent, name)
        if kind == stat.S_IFLNK:
            raise EphemerootError(
                f"{self.path} is a symbolic link in the root and cannot be bound over",
                'set method = "copy", which keeps a link as a link',
            )
        if kind == stat.S_IFDIR and kind not in self.kinds(stage):
            raise EphemerootError(
                f"{self.path} is declared as a file, but it is a directory in the root",
                "declare it in directories",
            )

    def _have_source(self, stage: Stage, store: int) -> tuple[int, str]:
        """The store's file, -1 if it has none, and how it came to be."""
        source = self._open_source(stage, store)
        if source >= 0:
            return source, ""
        lack = unseeded.lack(stage, self.path, self.store, self.source, self.initial)
        seeded = self._seed(stage, stage.root()) if lack.may_seed else ""
        source = self._open_source(stage, store)
        if source < 0:
            lack.require()
        return source, seeded

    def _link(self, stage: Stage, source: int, parent: int, name: str, place: str) -> str:
        """A link. A file that the root has there is not removed, but bound over."""
        try:
            result = tree.make_link(parent, name, f"{self.store}/{self.source}")
        except FileExistsError:
            if source < 0 or not (_is_regular(source) and tree.is_regular_entry(parent, name)):
                raise
            bound = self._bind(stage, source, parent, name, place)
            return f"{bound}: a link cannot replace a file"
        stage.made.append(place)
        return result

    def _show_overlay(self, stage: Stage) -> str:
        """The file persists with the overlay that it is in; a bind is only for its options."""
        if self.method == "bind" or self.options:
            parent, name = tree.open_parent(stage.root(), stage.resolve_leaf(self.path))
            try:
                if tree.is_regular_entry(parent, name):
                    return bind_shown(parent, name, self.options, self.path)
            finally:
                os.close(parent)
        return "persists with its directory"

    def _is_to_be_seeded(self, stage: Stage) -> bool:
        if self.initial != "previous":
            return False
        source = self._open_source(stage, stage.store(self.store))
        if source >= 0:
            os.close(source)
        return source < 0

    def _seed(self, stage: Stage, root: int) -> str:
        return seed.seed_file(stage, self, root)

    def _open_source(self, stage: Stage, store: int) -> int:
        """The store's file, -1 if it has none. Anything else there is an error, but for a user's
        directory.
        """
        try:
            fd = paths.open_beneath(store, self.source)
        except FileNotFoundError:
            return -1
        if stat.S_IFMT(os.fstat(fd).st_mode) not in self.kinds(stage):
            os.close(fd)
            raise EphemerootError(f"{self.store}/{self.source} is not a regular file")
        return fd

    def _bind(self, stage: Stage, source: int, parent: int, name: str, place: str) -> str:
        if tree.is_mount_point(parent, name):
            return "already bound"
        if not tree.exists(parent, name):
            stage.made.append(place)
        hides = _have_placeholder(parent, name, self.path)
        target = paths.open_beneath(parent, name)
        try:
            attach_bind(source, target, self.options, self.path)
        finally:
            os.close(target)
        return "bound, hiding the root's" if hides else "bound"


def _is_regular(fd: int) -> bool:
    return stat.S_ISREG(os.fstat(fd).st_mode)


def _have_placeholder(parent: int, name: str, path: str) -> bool:
    """Have a regular file to bind over; return whether it has content that is hidden."""
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=parent))
        return False
    if stat.S_ISLNK(status.st_mode):
        raise EphemerootError(
            f"{path} is a symbolic link in the root and cannot be bound over",
            "remove the link from the base, or declare its target",
        )
    if not stat.S_ISREG(status.st_mode):
        raise EphemerootError(f"{path} is not a regular file in the root")
    return status.st_size > 0
