"""Finding out which of some paths persist already, which cannot, and which will be copied."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ephemeroot.adopt import drop_in, requirements, underway
from ephemeroot.adopt.adoption import Adoption
from ephemeroot.adopt.drop_in import Declaration
from ephemeroot.config import (
    Configuration,
    Examination,
    Machine,
    examine,
    replaced,
    volumes,
)
from ephemeroot.config.resolution import Roots
from ephemeroot.config.syntax import clean
from ephemeroot.config.syntax.problem import Mistake
from ephemeroot.errors import Misconfigured, Refused
from ephemeroot.hooks.operation import Seeded
from ephemeroot.hooks.operations.copies import Copy
from ephemeroot.hooks.operations.directories import Directory, Parent
from ephemeroot.linux import mountinfo
from ephemeroot.plan import applied, seeds
from ephemeroot.plan.compile import compile_examination


class Adopter:
    """Finds out what adopting *asked* paths comes to on the machine below *root*.

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
        everything = {self._followed(self._clean(text)) for text in asked}
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

    def _followed(self, path: str) -> str:
        """As ``_resolved``; says what becomes of a link to a directory."""
        resolved = self._resolved(path)
        if resolved != path and self._is_link(path):
            self.settled.append(
                f"{path} is a link to the directory {resolved}, which is adopted; the link itself "
                "persists only if the base has it"
            )
        return resolved

    def _resolved(self, path: str) -> str:
        """What the path leads to, as it is declared; a link that is not to a directory persists."""
        known = [store.path for store in self.before.config.stores]
        roots = Roots(str(self.root), stores=known)
        followed = roots.resolve(path, follow_last=True)
        if (self.root / followed.lstrip("/")).is_dir():
            return followed
        return roots.resolve(path, follow_last=False)

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
        requirements.require_own_directory(self.root, path)
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
        requirements.require_on_root(self.root, path, live)
        if there and not self._is_under_way(declared.store, operation.source):
            beside = not requirements.is_only_parent(place, inner)
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
            requirements.require_unbound(Path(live), inner)
        requirements.require_store(self.root, declared.store, self.before)
        if self._live(path):
            requirements.require_shown(self.root, path, self.machine, self.before)
        above = clean.parents(path)
        parents = tuple(o for o in self.plan.persist if isinstance(o, Parent)
                        and o.path in above and o.store == declared.store)  # fmt: skip
        points = {mount.point for mount in mountinfo.mounts()}
        size = seeds.measure(Path(live), points)[0]
        self.adoptions.append(
            Adoption(
                self.root,
                path,
                declared.store,
                operation,
                parents,
                declare,
                inner,
                there,
                size,
                is_link,
                self.replace,
                plan=self.plan,
            )
        )

    @staticmethod
    def _is_same(one: Path, other: Path) -> bool:
        try:
            return one.samefile(other)
        except OSError:
            return False

    def _folder(self, store: str) -> Path:
        return self.root / store.lstrip("/")

    def _is_under_way(self, store: str, source: str) -> bool:
        return underway.is_recorded(self._folder(store), source, self.root)

    def forget_ended(self) -> None:
        """Remove the records of interrupted runs that a bind has completed since."""
        for store, source in self.ended:
            underway.forget(store, source)


def is_ephemeral(root: Path) -> bool:
    """Whether this boot has put in place persistent paths: then a bind made now is made again by
    the next boot.
    """
    return root == Path("/") and applied.booted() is not None
