"""Declared directories, and the parents of declared paths."""

from __future__ import annotations

import os
import stat

from ephemeroot.errors import EphemerootError
from ephemeroot.hooks import tree
from ephemeroot.hooks.operation import Operation, field
from ephemeroot.hooks.operations.linkable import Linkable
from ephemeroot.hooks.store import nesting, replaced, seed, unseeded
from ephemeroot.linux import attributes, mounts, paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeroot.hooks.stage import Stage

METHODS = ("bind", "symlink")

_READ = os.O_RDONLY | os.O_DIRECTORY

# A kept root has its users' directories, with any number of entries.
_COUNTED = 1000


class Parent(Operation):
    """Have the directory ``path`` in the store and in the root.

    If the store has none, it gets the owner and mode of the root's, where the root has
    one and nothing was declared (``explicit``), else ``user``, ``group`` and ``mode``.
    ``label`` is the SELinux policy's for ``path``.
    Once the store has it, the store is right, and the root's is made like it. With
    ``store_only`` the root's directory is another store's business.
    """

    KIND = "parent"
    path: str = field("absolute path", "the directory in the new root")
    store: str = field("absolute path", "the store that has it, too")
    source: str = field("path", "where the store has it, from the top of the store")
    user: int = field("user or group id", "owner of a new one", default=0)
    group: int = field("user or group id", "group of a new one", default=0)
    mode: int = field("mode", "mode of a new one", default=0o755)
    explicit: bool = field("boolean", "owner and mode were asked for", default=False)
    store_only: bool = field("boolean", "the root's is another store's", default=False)
    label: str | None = field("text", "the SELinux policy's label for it", default=None)

    def describe(self) -> str:
        what = f"{self.path} in the store {self.store}" if self.store_only else self.path
        return f"provide {what}, created as {self.user}:{self.group} {self.mode:04o}"

    def execute(self, stage: Stage) -> str:
        store = stage.store(self.store)
        place = stage.resolve(self.path)
        made_in_root = not tree.is_directory(stage.root(), place)
        if made_in_root:
            stage.leading.append(place)
        if nesting.is_in_overlay(stage, self):
            if made_in_root:
                make_in_root(stage, place, (self.user, self.group, self.mode, self.label))
            return "created in the overlay" if made_in_root else "already present"
        made_in_store = self._have_in_store(stage, stage.root(), place)
        if self.store_only:
            return "created in the store" if made_in_store else "already present"
        if made_in_root:
            make_in_root(stage, place, (0, 0, 0o700, None))
        _between(attributes.copy_access, (store, self.source), (stage.root(), place))
        where = [n for n, made in (("store", made_in_store), ("root", made_in_root)) if made]
        return f"created in the {' and the '.join(where)}" if where else "already present"

    def carry_over(self, stage: Stage, previous: int) -> str:
        """Seed the directories that seeded paths need, with the previous root's owners."""
        if nesting.was_through(stage, self, previous) or not nesting.has_place(stage, self):
            return ""
        try:
            place = tree.resolve(previous, self.path)
        except OSError:
            place = self.path
        return "created" if self._have_in_store(stage, previous, place) else ""

    def describe_carry_over(self, stage: Stage) -> str:
        if tree.is_directory(stage.store(self.store), self.source):
            return ""
        return f"create {self.path} in the store {self.store}"

    def _have_in_store(self, stage: Stage, root: int, place: str) -> bool:
        """Whether the directory had to be created in the store."""
        store = stage.store(self.store)
        if tree.is_directory(store, self.source):
            return False
        user, group, mode = self.user, self.group, self.mode
        as_in_root = not self.explicit and tree.is_directory(root, place)
        if as_in_root:
            user, group, mode = tree.owner_and_mode(root, place)
        outer = stage.plan.nesting().outer(self.path)
        if outer is None or nesting.store_of(outer) != self.store:
            stage.parents(self.store).add([self.source])
        seed.make_directory(store, self.source, user, group, mode, self.label)
        if as_in_root:
            _between(attributes.copy_acls, (root, place), (store, self.source))
        return True


class Directory(Linkable):
    """Put the store's directory ``source`` at ``path``, by ``method`` bind or symlink."""

    KIND = "directory"
    user: int = field("user or group id", "owner of a new one", default=0)
    group: int = field("user or group id", "group of a new one", default=0)
    mode: int = field("mode", "mode of a new one", default=0o755)
    method: str = field(METHODS, "how the root gets it", default=METHODS[0])
    label: str | None = field("text", "the SELinux policy's label for it", default=None)

    def describe(self) -> str:
        options = f" ({','.join(self.options)})" if self.options else ""
        verb = "link" if self.method == "symlink" else self.method
        return (
            f"{verb} directory {self.path} from {self.store}{options}, created as "
            f"{self.user}:{self.group} {self.mode:04o}"
        )

    def execute(self, stage: Stage) -> str:
        if nesting.is_in_overlay(stage, self):
            return self._show_overlay(stage)
        if stage.plan.nesting().has_copies(self):
            stage.keep_bare()
        store = stage.store(self.store)
        settled = replaced.settle(stage, self, self.kinds(stage))
        show = self._show_link if self.method == "symlink" else self._show_bind
        origin, result = show(stage, store)
        return " and ".join(filter(None, (settled, origin, result)))

    def _show_bind(self, stage: Stage, store: int) -> tuple[str, str]:
        """How the store's directory came to be, and what became of the bind."""
        place = stage.find(self.path)
        try:
            self._require_directory(place.status)
            source, origin = self._open_source(stage, store)
            try:
                exists = place.status is not None
                where = place.directory, place.name, place.path
                return origin, self._bind(stage, source, where, exists=exists)
            finally:
                os.close(source)
        finally:
            place.close()

    def _show_link(self, stage: Stage, store: int) -> tuple[str, str]:
        place = stage.resolve_leaf(self.path)
        parent, name = tree.open_parent(stage.root(), place)
        try:
            self._require_directory(tree.status_of(parent, name))
            origin = self._have_source(stage, store)
            if tree.is_in_store(parent, store, self.source):
                return origin, "persists with its directory"
            return origin, self._link(stage, store, parent, name, place)
        finally:
            os.close(parent)

    def prepare(self, stage: Stage) -> str:
        """An empty directory hides what the base has at its place in the overlay."""
        store = stage.store(self.store)
        if self.initial != "empty" or tree.is_directory(store, self.source):
            return ""
        self._have_parents(stage, store)
        wanted = (self.user, self.group, self.mode, self.label)
        seed.make_directory(store, self.source, *wanted, opaque=True)
        return "created"

    def _have_parents(self, stage: Stage, store: int) -> None:
        """Have what leads to the directory in the upper directory, as the base has it."""
        above = [name for name in self.source.split("/")[:-1] if name]
        for number in range(len(above)):
            source = "/".join(above[: number + 1])
            if tree.is_directory(store, source):
                continue
            place = self.path.rsplit("/", len(above) - number)[0]
            wanted = (0, 0, 0o755)
            if tree.is_directory(stage.root(), place):
                wanted = tree.owner_and_mode(stage.root(), place)
            seed.make_directory(store, source, *wanted)

    def kinds(self, stage: Stage) -> tuple[int, ...]:
        return (stat.S_IFDIR,)

    def _is_to_be_seeded(self, stage: Stage) -> bool:
        parents = stage.parents(self.store)
        return self.initial == "previous" and not parents.has_content(self.source)

    def _require_directory(self, status: os.stat_result | None) -> None:
        """Raise an error if the root has a file: before the store gets a directory for it."""
        if status is not None and stat.S_ISREG(status.st_mode):
            raise EphemerootError(
                f"{self.path} is declared as a directory, but it is a file in the root",
                "declare it in files",
            )

    def _open_source(self, stage: Stage, store: int) -> tuple[int, str]:
        """The store's directory, open, and how it was created, empty if it existed."""
        if self.source not in stage.parents(self.store):
            try:
                return paths.open_beneath(store, self.source, tree.DIRECTORY), ""
            except FileNotFoundError:
                pass
        origin = self._have_source(stage, store)
        return paths.open_beneath(store, self.source, tree.DIRECTORY), origin

    def _have_source(self, stage: Stage, store: int) -> str:
        """How the store's directory was created, empty if it existed."""
        parents = stage.parents(self.store)
        if parents.has_content(self.source):
            return ""
        lack = unseeded.lack(stage, self.path, self.store, self.source, self.initial)
        if lack.may_seed and (seeded := self._seed(stage, stage.root())):
            return seeded
        lack.require()
        seed.make_directory(store, self.source, self.user, self.group, self.mode, self.label)
        if self.source in parents:
            seed.give_directory(store, self.source, self.user, self.group, self.mode)
            parents.remove(self.source)
        return "created"

    def _seed(self, stage: Stage, root: int) -> str:
        return seed.seed(stage, root, self.path, self.store, self.source, kinds=self.kinds(stage))

    def _show_overlay(self, stage: Stage) -> str:
        """The directory persists with the overlay that it is in: bind what that shows, for the
        options and as a mount point of its own.
        """
        place = stage.resolve(self.path)
        stage.in_effect[self.path] = self.store
        made = bool(stage.take_prepared(self.path))
        if not tree.is_directory(stage.root(), place):
            made = True
            make_in_root(stage, place, (self.user, self.group, self.mode, self.label))
        result = "persists with its directory"
        if self.method == "bind":
            parent, name = tree.open_parent(stage.root(), place)
            try:
                result = bind_shown(parent, name, self.options, self.path)
            finally:
                os.close(parent)
        return f"created and {result}" if made else result

    def _link(self, stage: Stage, store: int, parent: int, name: str, place: str) -> str:
        """A link. A directory that the root has there is not removed, but bound over."""
        try:
            result = tree.make_link(parent, name, f"{self.store}/{self.source}")
        except FileExistsError:
            if not tree.is_directory_entry(parent, name):
                raise
            source = paths.open_beneath(store, self.source, tree.DIRECTORY)
            try:
                bound = self._bind(stage, source, (parent, name, place), exists=True)
            finally:
                os.close(source)
            return f"{bound}: a link cannot replace a directory"
        stage.made.append(place)
        return result

    def _bind(self, stage: Stage, source: int, where: tuple[int, str, str], *, exists: bool) -> str:
        """Bind the open *source* on what *where* says: an open directory, a name in it, and its
        path in the new root. A mount point is made unless one *exists*.
        """
        parent, name, place = where
        hides = 0
        if not exists:
            target = tree.make_mount_point(parent, name)
            stage.made.append(place)
        elif tree.is_mount_point(parent, name):
            stage.in_effect[self.path] = self.store
            return "already bound"
        else:
            target = paths.open_beneath(parent, name, _READ)
            hides = _count(target)
        try:
            attach_bind(source, target, self.options, self.path)
        finally:
            os.close(target)
        stage.in_effect[self.path] = self.store
        if not hides:
            return "bound"
        entries = "1 entry" if hides == 1 else f"{hides} entries"
        more = " or more" if hides == _COUNTED else ""
        return f"bound, hiding {entries}{more} of the root"


def _between(
    copy: Callable[[int, int], None], source: tuple[int, str], target: tuple[int, str]
) -> None:
    """*copy* from one open directory to another, each given by a root and a path in it."""
    first = paths.open_beneath(*source, _READ)
    try:
        second = paths.open_beneath(*target, _READ)
        try:
            copy(first, second)
        finally:
            os.close(second)
    finally:
        os.close(first)


def _count(directory: int) -> int:
    """The number of entries in *directory*, up to ``_COUNTED``."""
    count = 0
    with paths.entries(directory) as entries:
        for _ in entries:
            count += 1
            if count == _COUNTED:
                break
    return count


def make_in_root(stage: Stage, place: str, wanted: tuple[int, int, int, str | None]) -> None:
    """Make the directory *place* in the new root with the owner, group, mode and label *wanted*."""
    parent, name = tree.open_parent(stage.root(), place)
    try:
        tree.make_directory(parent, name, *wanted)
    finally:
        os.close(parent)
    stage.made.append(place)


def bind_shown(parent: int, name: str, options: list[str], path: str) -> str:
    """Bind the entry *name* of the open *parent* on itself, with *options* in addition to those of
    the mount that it is in.
    """
    if tree.is_mount_point(parent, name):
        return "already bound"
    shown = paths.open_beneath(parent, name)
    try:
        attach_bind(shown, shown, options, path)
    finally:
        os.close(shown)
    return "bound"


def attach_bind(source: int, target: int, options: list[str], name: str) -> None:
    """Bind the open *source* on the open *target* with mount(8)'s *options*.

    Raises ``EphemerootError`` for an option that is a filesystem's and not a mount's.
    """
    set_, clear, own = mounts.split_options(options) if options else (0, 0, [])
    if own:
        raise EphemerootError(f"{name}: a bind cannot have the option {own[0]}")
    mounts.bind(source, target, set_=set_, clear=clear, name=name)
