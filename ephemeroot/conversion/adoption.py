"""Live data into a store, while the machine runs: copied, verified, declared, put in place, bound.

The order is the safety. The copy is made under a temporary name and verified; then the path is
declared, then the copy gets its name in the store, by one rename. Interrupted before that rename,
the store has nothing under the name and the root is the only truth, as ever: the next boot seeds
it, or refuses to. Interrupted after it, a record in the store says that the root may be newer, and
the next run brings the difference over.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import stat
import time
from binascii import crc32
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ephemeroot.compile import compile_examination
from ephemeroot.config import Configuration, Examination, Machine, Place, clean, examine, volumes
from ephemeroot.config.advice import REPLACED
from ephemeroot.config.model import Binding, Entry, Origin, Permissions
from ephemeroot.config.problem import Mistake
from ephemeroot.conversion import drop_in, seeds
from ephemeroot.conversion.departure import bare_root
from ephemeroot.conversion.drop_in import Declaration
from ephemeroot.conversion.mirror import Mirror, open_directory, settle
from ephemeroot.errors import EphemerootError, Misconfigured, Refused
from ephemeroot.hooks import seed, tree
from ephemeroot.hooks.cmdline import CommandLine
from ephemeroot.hooks.copies import Copy
from ephemeroot.hooks.directories import Directory, Parent
from ephemeroot.hooks.files import File
from ephemeroot.hooks.report import Report
from ephemeroot.hooks.stage import Stage
from ephemeroot.hooks.volumes import STATE
from ephemeroot.image import applied, mounted
from ephemeroot.linux import copying, mountinfo, paths
from ephemeroot.linux.copying import Copier

ADOPTING = "adopting"
"""Below a store's own records: copies on their way, and what is under way."""

REPLACED_ONES = "replaced"
"""Below a store's own records: what ``--replace`` has taken out of the way. Never deleted by us."""

_PLACE = Place("ephemeroot adopt")


@dataclass(slots=True)
class Adoption:
    """One path on its way into ``store``. ``size`` in bytes; ``declare`` is what the drop-in
    gets, ``None`` if it is declared already.

    ``inner`` are declared paths below it, relative to it: the store has those already, and
    they are left alone. ``there`` is whether the store has something under that name.
    """

    path: str
    store: str
    operation: Directory | File | Copy
    parents: tuple[Parent, ...]
    declare: Declaration | None
    inner: tuple[str, ...]
    there: bool
    size: int
    problems: list[str] = field(default_factory=list)

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory, else a regular file."""
        return isinstance(self.operation, Directory)

    def describe(self) -> str:
        """One line: the dry run prints the same."""
        how = "what is beside declared paths of" if self.inner and self.there else "copy"
        words = f"copy {how} {self.path}" if how != "copy" else f"copy {self.path}"
        line = f"{words} into {self.store} ({seeds.amount(self.size)})"
        return f"{line}, and declare it" if self.declare else line


class Adopter:
    """Finds out what adopting *asked* paths comes to on the machine below *root*, and does it.

    ``adoptions`` is what there is to do, ``settled`` a line for each path that persists
    already. Raises ``Misconfigured`` or ``Refused``; nothing has been changed then.
    """

    def __init__(
        self,
        root: Path,
        config: Configuration,
        machine: Machine,
        asked: list[str],
        *,
        store: str | None = None,
        replace: bool = False,
    ) -> None:
        self.root = root
        self.machine = machine
        self.replace = replace
        self.settled: list[str] = []
        self.adoptions: list[Adoption] = []
        self.before = examine(config, machine)
        if self.before.errors:
            compile_examination(self.before)  # raises all of them
        if not config.stores:
            raise Misconfigured("no store is declared", "'ephemeroot init' proposes one")
        self.store = self._store(config, store)
        wanted = [path for path in map(self._clean, asked) if not self._is_settled(path)]
        declared = {d.path for d in self.before.declared}
        new = [self._declaration(path) for path in wanted if path not in declared]
        after = examine(_with(config, new), machine)
        if after.errors:
            first = after.errors[0]
            raise Misconfigured(f"{first.reason}", first.hint)
        self.plan = compile_examination(after).plan
        for path in wanted:
            self._add(path, next((one for one in new if one.path == path), None), after)

    @staticmethod
    def _store(config: Configuration, asked: str | None) -> str:
        known = [store.path for store in config.stores]
        if asked is None:
            return known[0]
        if asked.rstrip("/") not in known:
            raise Misconfigured(f"{asked} is no declared store", f"declared: {', '.join(known)}")
        return asked.rstrip("/")

    @staticmethod
    def _clean(text: str) -> str:
        try:
            path = clean.absolute(text)
            path.encode("utf-8")
        except Mistake as mistake:
            raise Misconfigured(mistake.reason, mistake.hint) from None
        except UnicodeEncodeError:
            raise Misconfigured(
                f"{text!r} is no UTF-8, and no configuration can name it",
                "adopt the directory it is in",
            ) from None
        return path

    def _is_settled(self, path: str) -> bool:
        """Whether it persists by something above it."""
        above = [d for d in self.before.declared
                 if d.is_directory and d.path != path and clean.is_below(path, d.path)]  # fmt: skip
        if above:
            self.settled.append(f"{path} persists already, by {above[0].path}")
            return True
        volume = volumes.covering(path, self.before.volumes)
        if volume is not None and volume.persists:
            self.settled.append(f"{path} persists already, on the volume {volume.mount_point}")
            return True
        return False

    def _declaration(self, path: str) -> Declaration:
        directory, _, name = path.rpartition("/")
        is_directory = self._live(path)
        method = "copy" if not is_directory and directory == "/etc" and name in REPLACED else ""
        return Declaration(path, self.store, is_directory, method)

    def _live(self, path: str) -> bool:
        """Whether the live path is a directory. Raises ``Refused`` if it cannot be adopted."""
        live = self.root / path.lstrip("/")
        try:
            mode = live.lstat().st_mode
        except OSError as error:
            raise Refused(
                f"{path}: {error.strerror}", "only what is there can be adopted"
            ) from None
        if stat.S_ISLNK(mode):
            raise Refused(f"{path} is a link to {os.readlink(live)}", "adopt what it leads to")
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            raise Refused(f"{path} is neither a directory nor a regular file")
        return stat.S_ISDIR(mode)

    def _add(self, path: str, declare: Declaration | None, after: Examination) -> None:
        declared = next(d for d in after.declared if d.path == path)
        operation = next(
            (o for o in self.plan.persist
             if isinstance(o, Directory | File | Copy) and o.path == path), None
        )  # fmt: skip
        if operation is None:
            self.settled.append(f"{path} is made anew, or put together, by every boot")
            return
        if self._live(path) is not isinstance(operation, Directory):
            raise Refused(f"{path} is declared as something else than it is ({declared.place})")
        place = self.root / declared.store.lstrip("/") / operation.source
        there = os.path.lexists(place)
        inner = tuple(
            d.path[len(path) + 1 :] for d in after.declared if d.path.startswith(f"{path}/")
        )
        live = os.path.realpath(self.root / path.lstrip("/"))
        if mountinfo.mounted_at(live) is not None:
            if there and self._is_same(Path(live), place):
                self.settled.append(f"{path} persists already")
                self._forget(declared.store, operation.source)
                return
            raise Refused(f"{path} is a mount point of something else", "adopt what it is made of")
        self._require_on_root(path, live)
        if there and not self._is_under_way(declared.store, operation.source):
            if declare is None and not self.replace and not _is_only_parent(place, inner):
                self.settled.append(
                    f"{path} is declared and in the store already; if the root has the right one, "
                    "add --replace"
                )
                return
            if not inner and not self.replace:
                raise Refused(
                    f"the store has another {path}, of an earlier time",
                    "look at it, and move it away; or add --replace, which keeps it aside",
                )
        self._require_store(declared.store)
        above = clean.parents(path)
        parents = tuple(o for o in self.plan.persist if isinstance(o, Parent)
                        and o.path in above and o.store == declared.store)  # fmt: skip
        points = {mount.point for mount in mountinfo.mounts()}
        size = seeds.measure(Path(live), points)[0]
        self.adoptions.append(
            Adoption(path, declared.store, operation, parents, declare, inner, there, size)
        )

    @staticmethod
    def _is_same(one: Path, other: Path) -> bool:
        try:
            return one.samefile(other)
        except OSError:
            return False

    def _require_on_root(self, path: str, live: str) -> None:
        """What is copied is the root's own; what something else has mounted is not seen there."""
        mounts = mountinfo.mounts()
        mine = seeds.covering(Path(os.path.realpath(self.root)), mounts)
        one = seeds.covering(Path(live), mounts)
        if one is not None and mine is not None and one.id != mine.id:
            raise Refused(
                f"{path} is not on the root, but on what is mounted at {one.point}",
                "it does not go with the root; adopt is for what does",
            )

    def _require_store(self, store: str) -> None:
        volume = volumes.covering(store, self.before.volumes)
        if self.root == Path("/") and volume is not None:
            mounted.require(volume)
        if not (self.root / store.lstrip("/")).is_dir():
            raise Refused(f"the store {store} is not there", "is its volume mounted?")

    # Records: what was under way when this was interrupted

    def _record(self, store: str, source: str) -> Path:
        return self.root / store.lstrip("/") / STATE / ADOPTING / f"{_name(source)}.path"

    def _is_under_way(self, store: str, source: str) -> bool:
        try:
            return self._record(store, source).read_bytes() == os.fsencode(source)
        except OSError:
            return False

    def _forget(self, store: str, source: str) -> None:
        if self._is_under_way(store, source):
            self._record(store, source).unlink()

    # Doing it

    def execute(
        self, adoption: Adoption, *, bind: bool, progress: Callable[[Copier, str], None] | None
    ) -> str:
        """Adopt one path; say what became of it. *bind* puts it in place at once."""
        with ExitStack() as stack:
            store = _open(self.root / adoption.store.lstrip("/"), stack)
            bare = bare_root(self.root)
            stack.callback(os.close, bare)
            stage = self._stage(stack)
            stage.add_store(adoption.store, os.dup(store))
            work = _Work(self, adoption, store, bare, stage, progress)
            resumed = self._is_under_way(adoption.store, adoption.operation.source)
            if adoption.there and (adoption.inner or resumed) and not self.replace:
                changed = work.merge()
            else:
                changed = work.copy()
            words = [work.counted()]
            if bind and not (adoption.there and adoption.inner) and work.bind():
                words.append("bound")
            self._forget(adoption.store, adoption.operation.source)
            seed.sync(store)
        if changed:
            adoption.problems.append(
                f"{adoption.path}: {', '.join(changed[:3])} kept changing while it was copied"
            )
        return " and ".join(filter(None, words))

    def _stage(self, stack: ExitStack) -> Stage:
        run = self.root / "run/ephemeroot" if self.root != Path("/") else Path("/run/ephemeroot")
        stage = Stage(
            self.plan,
            CommandLine(""),
            Report("adopt", None, "", boot=False),
            target=str(self.root),
            run=str(run),
            boot_id="",
        )
        stack.callback(stage.close)
        return stage

    def declare(self, adoption: Adoption) -> None:
        """Write it into the drop-in, if it is not declared yet."""
        if adoption.declare is not None:
            drop_in.add(self.root, [adoption.declare])


class _Work:
    """One adoption under way, with everything open."""

    def __init__(
        self,
        adopter: Adopter,
        adoption: Adoption,
        store: int,
        bare: int,
        stage: Stage,
        progress: Callable[[Copier, str], None] | None,
    ) -> None:
        self.adopter = adopter
        self.adoption = adoption
        self.store = store
        self.bare = bare
        self.stage = stage
        self.copier = Copier()
        if progress is not None:
            self.copier.progress = lambda name: progress(self.copier, name)
        self.source = adoption.operation.source

    def counted(self) -> str:
        """How much was copied."""
        copied, shared = self.copier.copied, self.copier.shared
        parts = [f"{seeds.amount(copied)} copied"] if copied or not shared else []
        return ", ".join(parts + ([f"{seeds.amount(shared)} shared"] if shared else []))

    def copy(self) -> list[str]:
        """Copy under a temporary name, verify, declare, rename; what kept changing."""
        adoption, name = self.adoption, _name(self.source)
        folder = seed.open_records(self.store, ADOPTING)
        try:
            copying.remove(folder, name)
            _write(folder, f"{name}.path", os.fsencode(self.source))
            parent, last = self._live()
            try:
                self._copy(parent, last, folder, name)

                def verify() -> Mirror:
                    # Byte by byte, unless all of it is shared with the source.
                    content = bool(self.copier.copied)
                    return self._mirror(parent, last, folder, name, content=content)

                changed = settle(verify)
            finally:
                os.close(parent)
            seed.sync(folder)
            self.adopter.declare(adoption)
            self._make_parents()
            self._put_in_place(folder, name)
        finally:
            os.close(folder)
        return self._catch_up() or changed

    def _copy(self, parent: int, last: str, folder: int, name: str) -> None:
        try:
            self.copier.copy(parent, last, folder, name)
        except OSError as error:
            copying.remove(folder, name)
            copying.remove(folder, f"{name}.path")
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise EphemerootError(
                    f"the store {self.adoption.store} is too full to take {self.adoption.path}",
                    "make room in it",
                ) from error
            raise

    def merge(self) -> list[str]:
        """Bring into the store's directory what it lacks of the root's, beside what is declared
        below it; or what changed since an interrupted run.
        """
        folder = seed.open_records(self.store, ADOPTING)
        try:
            _write(folder, f"{_name(self.source)}.path", os.fsencode(self.source))
        finally:
            os.close(folder)
        if not self.adoption.inner:
            self.adopter.declare(self.adoption)
            self._make_parents()
            return self._catch_up()
        changed = self._catch_up()
        seed.sync(self.store)
        self.adopter.declare(self.adoption)
        return self._catch_up() or changed

    def _catch_up(self) -> list[str]:
        """Make the store's like the root's once more, in its place."""
        parent, last = self._live()
        try:
            target, name = tree.open_parent(self.store, self.source)
            try:
                return settle(lambda: self._mirror(parent, last, target, name,
                                                   delete=not self.adoption.inner))  # fmt: skip
            finally:
                os.close(target)
        finally:
            os.close(parent)

    def _live(self) -> tuple[int, str]:
        """The directory and the name of the live path, in the root without what is mounted."""
        head, _, last = self.adoption.path.rpartition("/")
        return tree.open_parent(
            self.bare, tree.resolve(self.bare, head or "/").rstrip("/") + "/" + last
        )

    def _mirror(
        self, parent: int, last: str, target: int, name: str, *, content: bool = False,
        delete: bool = True, since: int = 0,
    ) -> Mirror:  # fmt: skip
        excluded = self.adoption.inner if self.adoption.there else ()
        mirror = Mirror(
            excluded=excluded, delete=delete, content=content, since=since, copier=self.copier
        )
        if self.adoption.is_directory:
            old = open_directory(parent, last)
            try:
                new = open_directory(target, name)
                try:
                    mirror.tree(old, new)
                finally:
                    os.close(new)
            finally:
                os.close(old)
            return mirror
        flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        old = os.open(last, os.O_RDONLY | flags, dir_fd=parent)
        try:
            new = os.open(name, os.O_RDWR | flags, dir_fd=target)
            try:
                mirror.file(old, new, self.adoption.path)
            finally:
                os.close(new)
        finally:
            os.close(old)
        return mirror

    def _make_parents(self) -> None:
        for parent in self.adoption.parents:
            parent.carry_over(self.stage, self.bare)

    def _put_in_place(self, folder: int, name: str) -> None:
        target, last = tree.open_parent(self.store, self.source)
        try:
            try:
                paths.rename(folder, name, target, last, flags=paths.RENAME_NOREPLACE)
            except FileExistsError:
                if not self.adopter.replace:
                    raise EphemerootError(
                        f"the store {self.adoption.store} has got another {self.adoption.path} "
                        "meanwhile",
                        "look at it, and run it again",
                    ) from None
                paths.rename(folder, name, target, last, flags=paths.RENAME_EXCHANGE)
                self._set_aside(folder, name)
        finally:
            os.close(target)
        seed.sync(folder)

    def _set_aside(self, folder: int, name: str) -> None:
        aside = seed.open_records(self.store, REPLACED_ONES)
        moment = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
        try:
            kept = f"{moment}-{os.path.basename(self.source)}"
            paths.rename(folder, name, aside, kept, flags=paths.RENAME_NOREPLACE)
        finally:
            os.close(aside)
        self.adoption.problems.append(
            f"what the store had is now {self.adoption.store}/{STATE}/{REPLACED_ONES}/{kept}"
        )

    def bind(self) -> bool:
        """Put the store's in the place of the root's, as the boot will; whether that was done."""
        if isinstance(self.adoption.operation, Copy):
            return False
        self.adoption.operation.execute(self.stage)
        # What was written in the last moment by who looked before the bind was there.
        parent, last = self._live()
        try:
            target, name = tree.open_parent(self.store, self.source)
            try:
                self._mirror(parent, last, target, name, delete=False, since=time.time_ns())
            finally:
                os.close(target)
        finally:
            os.close(parent)
        return True


def _is_only_parent(place: Path, inner: tuple[str, ...]) -> bool:
    """Whether the store has the directory *place* only as the way to the *inner* paths."""
    try:
        return bool(inner) and set(os.listdir(place)) <= {p.partition("/")[0] for p in inner}
    except OSError:
        return False


def is_ephemeral(root: Path) -> bool:
    """Whether this boot has put in place what persists: then a bind made now is made again by
    the next boot.
    """
    return root == Path("/") and applied.booted() is not None


def _with(config: Configuration, new: list[Declaration]) -> Configuration:
    """The configuration with *new* declared, as the drop-in will say it."""
    found = []
    for store in config.stores:
        entries = [_entry(one) for one in new if one.store == store.path]
        found.append(dataclasses.replace(store, entries=(*store.entries, *entries)))
    return dataclasses.replace(config, stores=tuple(found))


def _entry(one: Declaration) -> Entry:
    return Entry(
        path=one.path,
        is_directory=one.is_directory,
        permissions=Permissions(),
        parent=Permissions(),
        parent_origin=Origin(_PLACE),
        store=None,
        method=one.method or ("bind" if one.is_directory else "auto"),
        binding=Binding(),
        initial="previous",
        required=False,
        first_boot=False,
        origin=Origin(_PLACE),
    )


def _name(source: str) -> str:
    return f"{crc32(os.fsencode(source)):08x}"


def _open(path: Path, stack: ExitStack) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return fd


def _write(folder: int, name: str, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        os.write(fd, content)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.fsync(folder)
