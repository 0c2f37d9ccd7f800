"""Live data into a store, while the machine runs: copied, verified, declared, put in place, bound.

The order is the safety. The copy is made under a temporary name and verified; then the path is
declared, then the copy gets its name in the store, by one rename. Interrupted before that rename,
the store has nothing under the name and the root is the only truth, as usual: the next boot seeds
it, or refuses to. Interrupted after it, a record in the store says that the root may be newer, and
the next run brings the difference over.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from ephemeroot.adopt import drop_in, underway, whiteouts
from ephemeroot.adopt.adoption import Adoption, Work, failed
from ephemeroot.adopt.drop_in import Declaration
from ephemeroot.config import (
    Configuration,
    Examination,
    Machine,
    base_tree,
    examine,
    replaced,
    volumes,
)
from ephemeroot.config.resolution import Roots
from ephemeroot.config.syntax import clean
from ephemeroot.config.syntax.problem import Mistake
from ephemeroot.errors import Misconfigured, Refused
from ephemeroot.hooks.cmdline import CommandLine
from ephemeroot.hooks.operation import Seeded
from ephemeroot.hooks.operations.copies import Copy
from ephemeroot.hooks.operations.directories import Directory, Parent
from ephemeroot.hooks.report import Report
from ephemeroot.hooks.stage import Stage
from ephemeroot.hooks.store import unseeded
from ephemeroot.leave import leaving
from ephemeroot.leave.returning import bare_root
from ephemeroot.linux import kernel, mountinfo, paths
from ephemeroot.linux.copying import Copier
from ephemeroot.plan import applied, mounted, seeds
from ephemeroot.plan.compile import compile_examination


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
        self.ended: list[tuple[Path, str]] = []
        self.adoptions: list[Adoption] = []
        self.before = examine(config, machine)
        if self.before.errors:
            compile_examination(self.before)  # raises all of them
        if not config.stores:
            raise Misconfigured("no store is declared", "run 'ephemeroot init' for a proposal")
        self.store = self._store(config, store)
        everything = {self._resolved(self._clean(text)) for text in asked}
        wanted = [p for p in sorted(everything) if not self._is_settled(p, everything)]
        declared = {d.live for d in self.before.declared}
        new = [self._declaration(path) for path in wanted if path not in declared]
        after = examine(drop_in.foreseen(config, new), machine)
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
            raise Misconfigured(f"{asked} is not a declared store", f"declared: {', '.join(known)}")
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
                f"{text!r} is not UTF-8, so no configuration can name it",
                "adopt its directory",
            ) from None
        return path

    def _resolved(self, path: str) -> str:
        """What the path leads to, as it is declared; a link that is not to a directory persists."""
        follow = (self.root / path.lstrip("/")).is_dir()
        known = [store.path for store in self.before.config.stores]
        return Roots(str(self.root), stores=known).resolve(path, follow_last=follow)

    def _is_settled(self, path: str, asked: set[str]) -> bool:
        """Whether it persists by something above it, or goes with it now."""
        if with_it := [p for p in clean.parents(path) if p in asked]:
            self.settled.append(f"{path} is included in {with_it[0]}")
            return True
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
        if self._live(path):
            return Declaration(path, self.store, True)
        method = "copy" if self._is_link(path) else replaced.method(path)
        return Declaration(path, self.store, False, method)

    def _is_link(self, path: str) -> bool:
        return (self.root / path.lstrip("/")).is_symlink()

    def _live(self, path: str) -> bool:
        """Whether the live path is a directory. Raises ``Refused`` if it cannot be adopted."""
        live = self.root / path.lstrip("/")
        try:
            mode = live.lstat().st_mode
        except OSError as error:
            raise Refused(
                f"{path}: {error.strerror}", "name an existing file or directory"
            ) from None
        if stat.S_ISLNK(mode):
            if not live.is_dir():
                return False
            hint = "adopt the directory that it points to"
            raise Refused(f"{path} is a link to {os.readlink(live)}", hint)
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            raise Refused(f"{path} is neither a directory nor a regular file")
        return stat.S_ISDIR(mode)

    def _add(self, path: str, declare: Declaration | None, after: Examination) -> None:
        self._require_own_directory(path)
        declared = next(d for d in after.declared if path in (d.path, d.live))
        if declared.path != declared.live:
            raise Refused(
                f"{path} is {declared.path} in the base: nothing there is read from {path}",
                "run 'ephemeroot check' to see the link that differs",
            )
        operation = next(
            (o for o in self.plan.persist
             if isinstance(o, Seeded) and o.path == path), None
        )  # fmt: skip
        if operation is None:
            self.settled.append(f"{path} is created or assembled by every boot")
            return
        if self._live(path) is not isinstance(operation, Directory):
            raise Refused(f"{path} is declared with another type ({declared.place})")
        place = self.root / declared.store.lstrip("/") / operation.source
        there = os.path.lexists(place)
        inner = tuple(
            d.path[len(path) + 1 :] for d in after.declared if d.path.startswith(f"{path}/")
        )
        live = os.path.realpath(self.root / path.lstrip("/"))
        is_link = self._is_link(path)
        if is_link:
            if not isinstance(operation, Copy):
                raise Refused(
                    f"{path} is a link, and is declared with another method ({declared.place})",
                    'set method = "copy"',
                )
            head, _, name = path.rpartition("/")
            live = f"{os.path.realpath(self.root / head.lstrip('/'))}/{name}"
        if mountinfo.mounted_at(live) is not None:
            if there and self._is_same(Path(live), place):
                self.settled.append(f"{path} persists already")
                self.ended.append((self._folder(declared.store), operation.source))
                return
            raise Refused(
                f"{path} is a mount point of another filesystem",
                "adopt the files that it is made of",
            )
        self._require_on_root(path, live)
        if there and not self._is_under_way(declared.store, operation.source):
            beside = not _is_only_parent(place, inner)
            if declare is None and beside and not self.replace:
                self.settled.append(
                    f"{path} is declared and in the store already; if the root has the right "
                    "version, add --replace"
                )
                return
            if beside and not self.replace:
                raise Refused(
                    f"the store already has another version of {path}",
                    "compare both, and move it away; or add --replace, which keeps it aside",
                )
        if there and self.replace:
            _require_unbound(Path(live), inner)
        self._require_store(declared.store)
        if self._live(path):
            self._require_shown(path)
        above = clean.parents(path)
        parents = tuple(o for o in self.plan.persist if isinstance(o, Parent)
                        and o.path in above and o.store == declared.store)  # fmt: skip
        points = {mount.point for mount in mountinfo.mounts()}
        size = seeds.measure(Path(live), points)[0]
        self.adoptions.append(
            Adoption(path, declared.store, operation, parents, declare, inner, there, size, is_link)
        )

    @staticmethod
    def _is_same(one: Path, other: Path) -> bool:
        try:
            return one.samefile(other)
        except OSError:
            return False

    def _require_own_directory(self, path: str) -> None:
        """Nothing may be bound where systemd makes a link: see ``dynamic_users``."""
        dynamic = Roots(str(self.root)).dynamic.get(path)
        if dynamic is not None:
            raise Refused(
                f"{dynamic.service} has DynamicUser=: systemd moves {path} to {dynamic.private}",
                f"run 'systemctl restart {dynamic.service}', and adopt {dynamic.private}",
            )

    def _require_on_root(self, path: str, live: str) -> None:
        """What is copied is the root's own; what something else has mounted is not seen there."""
        mounts = mountinfo.mounts()
        mine = seeds.covering(Path(os.path.realpath(self.root)), mounts)
        one = seeds.covering(Path(live), mounts)
        if one is not None and mine is not None and one.id != mine.id:
            raise Refused(
                f"{path} is not on the root, but on the filesystem mounted at {one.point}",
                "it is not wiped with the root and needs no adoption",
            )

    def _require_shown(self, path: str) -> None:
        """What is copied is what the root shows: of an overlay, that may not be all."""
        if not whiteouts.is_overlay(str(self.root)):
            return
        with base_tree.opened(self.before.config, self.machine, self.before.volumes, []) as base:
            if base is None:
                return
            live = bare_root(self.root)
            try:
                whiteouts.require_none(path, live, base)
            finally:
                os.close(live)

    def _require_store(self, store: str) -> None:
        volume = volumes.covering(store, self.before.volumes)
        if self.root == Path("/") and volume is not None:
            mounted.require(volume)
        if not (self.root / store.lstrip("/")).is_dir():
            raise Refused(f"the store {store} is missing", "check that its volume is mounted")

    def _folder(self, store: str) -> Path:
        return self.root / store.lstrip("/")

    def _is_under_way(self, store: str, source: str) -> bool:
        return underway.is_recorded(self._folder(store), source, self.root)

    def forget_ended(self) -> None:
        """Remove the records of interrupted runs that a bind has completed since."""
        for store, source in self.ended:
            underway.forget(store, source)

    # Doing it

    def execute(
        self, adoption: Adoption, *, bind: bool, progress: Callable[[Copier, str], None] | None
    ) -> str:
        """Adopt one path; say what became of it. *bind* puts it in place at once.

        Raises ``EphemerootError``, which names the path: the next run completes the interrupted
        step.
        """
        try:
            return self._execute(adoption, bind=bind, progress=progress)
        except OSError as error:
            raise failed(adoption, error) from error

    def _execute(
        self, adoption: Adoption, *, bind: bool, progress: Callable[[Copier, str], None] | None
    ) -> str:
        with ExitStack() as stack:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            store, bare = os.open(self._folder(adoption.store), flags), bare_root(self.root)
            stack.callback(os.close, bare)
            stack.callback(os.close, store)
            stage = self._stage(stack)
            stage.add_store(adoption.store, os.dup(store))
            work = Work(self.root, adoption, store, bare, stage, progress, replace=self.replace)
            resumed = self._is_under_way(adoption.store, adoption.operation.source)
            if adoption.there and (adoption.inner or resumed) and not self.replace:
                changed = work.merge()
            else:
                changed = work.copy()
            words = [work.counted()]
            if bind and not (adoption.there and adoption.inner) and work.bind():
                words.append("bound")
            stage.parents(adoption.store).remove(adoption.operation.source)
            underway.forget(self._folder(adoption.store), adoption.operation.source)
            unseeded.forget(store, adoption.store, source=adoption.operation.source)
            kernel.sync_filesystem(store)
        adoption.problems += [
            f"{leaving.inside(adoption.path, name)} is not in the store: {reason}"
            for name, reason in work.left_out.items()
        ]
        if changed:
            names = ", ".join(changed[:3])
            adoption.problems.append(f"{adoption.path}: {names} kept changing while it was copied")
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


def _is_only_parent(place: Path, inner: tuple[str, ...]) -> bool:
    """Whether the store has the directory *place* only as the way to the *inner* paths."""
    leading = {path[:n] for path in inner for n, char in enumerate(path) if char == "/"}
    todo = [""]
    try:
        while todo:
            above = todo.pop()
            with paths.entries(place / above) as found:
                for entry in found:
                    path = f"{above}/{entry.name}".lstrip("/")
                    if path in inner:
                        continue
                    if path not in leading or not entry.is_dir(follow_symlinks=False):
                        return False
                    todo.append(path)
    except OSError:
        return False
    return bool(inner)


def _require_unbound(live: Path, inner: tuple[str, ...]) -> None:
    """Raise ``Refused`` if something declared below *live* is in use from the store: the root
    has only places for it, and would put those where the next boot looks for it.
    """
    for path in inner:
        if mountinfo.mounted_at(str(live / path)) is not None or (live / path).is_symlink():
            raise Refused(
                f"{live / path} is in use from the store, in the directory that --replace would "
                "move away",
                f"move the store's version aside by hand, and adopt {live} without --replace",
            )


def is_ephemeral(root: Path) -> bool:
    """Whether this boot has put in place persistent paths: then a bind made now is made again by
    the next boot.
    """
    return root == Path("/") and applied.booted() is not None
