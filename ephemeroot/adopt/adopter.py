"""The paths of an adoption: already persistent, impossible to adopt, or to be copied."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ephemeroot import amounts
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
    """Plans the adoption of the *asked* paths on the machine below *root*.

    ``adoptions`` are the steps, ``settled`` has a line for each path that needs none. Raises
    ``Misconfigured`` or ``Refused``; changes nothing.
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
            compile_examination(self.before)  # raises all errors together
        if not config.stores:
            raise Misconfigured(
                "the configuration declares no store", "run 'ephemeroot init' for a proposal"
            )
        self.store = self._store(config, store)
        everything = {self._followed(self._clean(text)) for text in asked}
        wanted = [p for p in sorted(everything) if not self._is_settled(p, everything)]
        declared = {d.live for d in self.before.declared}
        new = [self._declaration(path) for path in wanted if path not in declared]
        after = examine(drop_in.extended(config, new), machine)
        if after.errors:
            first = after.errors[0]
            raise Misconfigured(first.reason, first.hint)
        self.after = after
        self.plan = compile_examination(after).plan
        for path in wanted:
            self._add(path, next((one for one in new if one.path == path), None), after)

    @staticmethod
    def _store(config: Configuration, asked: str | None) -> str:
        known = [store.path for store in config.stores]
        if asked is None:
            return known[0]
        if asked.rstrip("/") not in known:
            raise Misconfigured(
                f"{asked} is not a declared store", f"declared stores: {amounts.listed(known)}"
            )
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
                f"cannot declare {text!r}: the name is not UTF-8",
                "adopt the directory that contains it",
            ) from None
        return path

    def _followed(self, path: str) -> str:
        """As ``_resolved``; reports a link to a directory."""
        resolved = self._resolved(path)
        if resolved != path and self._is_link(path):
            self.settled.append(
                f"{path} is a link to the directory {resolved}, which is adopted; the link itself "
                "is kept only if the base has it"
            )
        return resolved

    def _resolved(self, path: str) -> str:
        """The path to declare: with links to directories followed, without other links followed."""
        known = [store.path for store in self.before.config.stores]
        roots = Roots(str(self.root), stores=known)
        followed = roots.resolve(path, follow_last=True)
        if (self.root / followed.lstrip("/")).is_dir():
            return followed
        return roots.resolve(path, follow_last=False)

    def _is_settled(self, path: str, asked: set[str]) -> bool:
        """Whether a path above it is persistent, or is being adopted."""
        if with_it := [p for p in clean.parents(path) if p in asked]:
            self.settled.append(f"{path} is included in {with_it[0]}")
            return True
        above = [d for d in self.before.declared
                 if d.is_directory and d.path != path and clean.is_below(path, d.path)]  # fmt: skip
        if above:
            self.settled.append(f"{path} is already persistent, as part of {above[0].path}")
            return True
        volume = volumes.covering(path, self.before.volumes)
        if volume is not None and volume.persists:
            self.settled.append(f"{path} is already persistent, on the volume {volume.mount_point}")
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
        """Whether the live path is a directory. Raises ``Refused`` for a path that cannot be
        adopted.
        """
        live = self.root / path.lstrip("/")
        try:
            mode = live.lstat().st_mode
        except OSError as error:
            raise Refused(
                f"cannot adopt {path}: {error.strerror}", "name an existing file or directory"
            ) from None
        if stat.S_ISLNK(mode):
            if not live.is_dir():
                return False
            target = os.readlink(live)
            hint = "adopt the directory that it points to"
            raise Refused(f"cannot adopt {path}: it is a link to the directory {target}", hint)
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            raise Refused(
                f"cannot adopt {path}: it is neither a directory nor a regular file",
                "adopt the directory that contains it",
            )
        return stat.S_ISDIR(mode)

    def _add(self, path: str, declare: Declaration | None, after: Examination) -> None:
        requirements.require_own_directory(self.root, path)
        declared = next(d for d in after.declared if path in (d.path, d.live))
        if declared.path != declared.live:
            raise Refused(
                f"cannot adopt {path}: in the base it leads to {declared.path}, so the next root "
                "would not use it",
                "run 'ephemeroot check' to see the link that differs",
            )
        operation = next(
            (o for o in self.plan.persist
             if isinstance(o, Seeded) and o.path == path), None
        )  # fmt: skip
        if operation is None:
            self.settled.append(f"{path} needs no adoption: every boot creates it")
            return
        is_directory = self._live(path)
        if is_directory is not isinstance(operation, Directory):
            found, other = ("directory", "file") if is_directory else ("file", "directory")
            raise Refused(
                f"{path} is a {found}, but is declared as a {other} ({declared.place})",
                f"declare it as a {found}, and run the command again",
            )
        place = self.root / declared.store.lstrip("/") / operation.source
        in_store = os.path.lexists(place)
        inner = tuple(
            d.path[len(path) + 1 :] for d in after.declared if d.path.startswith(f"{path}/")
        )
        live = os.path.realpath(self.root / path.lstrip("/"))
        is_link = self._is_link(path)
        if is_link:
            if not isinstance(operation, Copy):
                raise Refused(
                    f"{path} is a link, but is not declared with method copy ({declared.place})",
                    'set method = "copy", and run the command again',
                )
            head, _, name = path.rpartition("/")
            live = f"{os.path.realpath(self.root / head.lstrip('/'))}/{name}"
        if mountinfo.mounted_at(live) is not None:
            if in_store and self._is_same(Path(live), place):
                self.settled.append(f"{path} is already persistent")
                self.ended.append((self._folder(declared.store), operation.source))
                return
            raise Refused(
                f"cannot adopt {path}: another filesystem is mounted on it",
                f"run 'findmnt {path}', and adopt the source of the mount",
            )
        requirements.require_on_root(self.root, path, live)
        if in_store and not self._is_under_way(declared.store, operation.source):
            has_content = not requirements.is_only_parent(place, inner)
            if declare is None and has_content and not self.replace:
                self.settled.append(
                    f"{path} is already declared and in the store; if the root has the right "
                    "version, add --replace"
                )
                return
            if has_content and not self.replace:
                raise Refused(
                    f"the store already has another version of {path}, as {place}",
                    "compare the two versions; --replace uses the root's, and keeps the store's "
                    "aside",
                )
        if in_store and self.replace:
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
                in_store,
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
        """Remove the records of interrupted runs whose path has been bound since."""
        for store, source in self.ended:
            underway.forget(store, source)


def is_ephemeral(root: Path) -> bool:
    """Whether this boot has made persistent paths: if so, the next boot repeats a bind made now."""
    return root == Path("/") and applied.booted() is not None
