"""Conflicts between declarations of the same path, and with stores and volumes."""

from __future__ import annotations

from collections.abc import Iterable

from ephemeroot.config import volumes
from ephemeroot.config.declared import Declared
from ephemeroot.config.model import Volume
from ephemeroot.config.syntax import clean
from ephemeroot.config.syntax.problem import Place, Problem


class Claims:
    """All declarations, checked for conflicts with each other."""

    def __init__(
        self,
        declared: Iterable[Declared],
        stores: Iterable[str],
        mounted: Iterable[Volume],
        problems: list[Problem],
    ) -> None:
        self.declared = list(declared)
        self.stores = list(stores)
        self.mounted = list(mounted)
        self.problems = problems

    def check(self) -> None:
        """Note each conflict once, at the later declaration."""
        first: dict[str, Declared] = {}
        in_store: dict[str, Declared] = {}
        for entry in self.declared:
            if not self._is_possible(entry):
                continue
            if entry.path in first:
                self._twice(entry, first[entry.path])
            elif entry.in_store in in_store:
                other = in_store[entry.in_store]
                self._add(
                    entry.place,
                    f"{entry.shown} would use {entry.in_store}, which {other.path} uses",
                    f"declare only one of the two ({other.place})",
                )
            else:
                first[entry.path] = in_store[entry.in_store] = entry
        parents: dict[str, Declared] = {}
        for entry in first.values():
            self._check_ancestors(entry, first)
            self._check_initial(entry, first)
            self._check_overlays(entry, first)
            self._check_parent(entry, first, parents)
            if self._is_apart_from_stores(entry):
                self._check_volumes(entry)

    def _is_possible(self, entry: Declared) -> bool:
        if entry.path == "/":
            self._add(entry.place, "/ cannot be a persistent path", "name directories in it")
            return False
        for place in volumes.KERNELS_OWN:
            if clean.is_below(entry.path, place):
                reason = f"{entry.shown} is below {place}, where every boot mounts a new filesystem"
                self._add(entry.place, reason, "remove the entry")
                return False
        return True

    def _twice(self, entry: Declared, other: Declared) -> None:
        if entry.is_directory != other.is_directory:
            kinds = ("file", "directory") if other.is_directory else ("directory", "file")
            reason = f"{entry.shown} is declared as a {kinds[0]} here and as a {kinds[1]} elsewhere"
        else:
            reason = f"{entry.shown} is declared twice"
        self._add(entry.place, reason, f"remove this entry or the other one ({other.place})")

    def _check_ancestors(self, entry: Declared, known: dict[str, Declared]) -> None:
        for path in clean.parents(entry.path):
            above = known.get(path)
            if above is None:
                continue
            if not above.is_directory:
                self._add(
                    entry.place,
                    f"{entry.path} is below the file {above.path}",
                    f"declare {above.path} as a directory ({above.place})",
                )
            elif above.options.method == "symlink":
                self._add(
                    entry.place,
                    f"{entry.path} is below {above.path}, which is a link into the store",
                    f"remove the entry: the link includes it ({above.place})",
                )

    def _check_overlays(self, entry: Declared, known: dict[str, Declared]) -> None:
        """The upper directory of a mounted overlay may change only through the overlay: a path in
        it must not use the same store through another store's path.
        """
        above = [known[path] for path in reversed(clean.parents(entry.path)) if path in known]
        if not above or above[0].store == entry.store:
            return
        for outer in above[1:]:
            if outer.store == entry.store and outer.options.method == "overlay":
                self._add(
                    entry.place,
                    f"{entry.path} would be stored in the overlay {outer.path}, but is inside "
                    f"{above[0].path} of the store {above[0].store}",
                    f"use the store {above[0].store} for it ({above[0].place})",
                )

    def _check_initial(self, entry: Declared, known: dict[str, Declared]) -> None:
        """An overlay shows the base's content if its upper directory has none."""
        if entry.options.initial != "empty":
            return
        if entry.options.method == "overlay":
            self._add(
                entry.place,
                f'{entry.path} cannot have initial = "empty": an overlay shows the base\'s content',
                'set method = "bind", or remove initial',
            )
            return
        above = [known[path] for path in reversed(clean.parents(entry.path)) if path in known]
        if entry.is_directory or not above or above[0].options.method != "overlay":
            return
        if above[0].store == entry.store:
            self._add(
                entry.place,
                f'{entry.path} cannot have initial = "empty": it is part of the overlay '
                f"{above[0].path}, which shows the base's file",
                f"remove initial, or the overlay ({above[0].place})",
            )

    def _check_parent(
        self, entry: Declared, known: dict[str, Declared], parents: dict[str, Declared]
    ) -> None:
        """A parent is created once, so all entries must ask for the same attributes."""
        if not entry.parent.is_given:
            return
        path = entry.path.rpartition("/")[0]
        if path in known:
            self._add(
                entry.parent_place,
                f"parent-directory has no effect, because {path} is declared too",
                f"set its attributes there ({known[path].place})",
            )
            return
        other = parents.setdefault(path, entry)
        if other.parent != entry.parent:
            self._add(
                entry.parent_place,
                f"{path} has other attributes in the parent-directory of another entry",
                f"set the same attributes in both ({other.parent_place})",
            )

    def _is_apart_from_stores(self, entry: Declared) -> bool:
        for store in self.stores:
            if clean.is_below(entry.path, store):
                self._add(
                    entry.place,
                    f"{entry.path} is inside the store {store}",
                    "declare the path in the root, without the path of the store",
                )
                return False
            if clean.is_below(store, entry.path) or clean.is_below(store, entry.in_store):
                self._add(
                    entry.place,
                    f"{entry.path} contains the store {store} and would hide it",
                    "declare its other directories one by one",
                )
                return False
        return True

    def _check_volumes(self, entry: Declared) -> None:
        for volume in self.mounted:
            if volume.needed_for_boot and clean.is_below(volume.mount_point, entry.path):
                which = "is" if volume.mount_point == entry.path else "would hide"
                self._add(
                    entry.place,
                    f"{entry.path} {which} the volume {volume.mount_point}",
                    f"remove the entry or the volume ({volume.place})",
                )
        under = volumes.covering(entry.path, self.mounted)
        if under is None or clean.is_below(entry.store, under.mount_point):
            return
        if not under.needed_for_boot:
            self._check_late_mount(entry, under)
        elif under.persists:
            self._add(
                entry.place,
                f"{entry.path} is on the volume {under.mount_point}, which is already persistent",
                "remove the entry",
                warning=True,
            )

    def _check_late_mount(self, entry: Declared, volume: Volume) -> None:
        """A filesystem that the system mounts later hides a path that the initramfs has bound."""
        if volume.line is not None and "noauto" in volume.line.options:
            return
        if volume.is_volatile or volume.type == "none" or "bind" in volume.options:
            hint = "remove that line"
        elif volume.persists:
            hint = (
                f"remove the entry: {volume.mount_point} is a persistent volume; or, to bind the "
                f"path on it, {volume.how_to_need()}"
            )
        else:
            hint = volume.how_to_need()
        self._add(
            entry.place,
            f"{entry.path} would be hidden: {volume.mount_point} is mounted over it after the "
            f"initramfs ({volume.place})",
            hint,
        )

    def _add(self, place: Place, reason: str, hint: str = "", *, warning: bool = False) -> None:
        self.problems.append(Problem.at(place, reason, hint, warning=warning))
