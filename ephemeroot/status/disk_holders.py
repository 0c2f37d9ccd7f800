"""Users of disk space: old roots, old bases, files of this root, paths in the stores."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ephemeroot import amounts, backends, terminal
from ephemeroot.backends.contract import Bases
from ephemeroot.errors import EphemerootError
from ephemeroot.hooks.plan import Plan
from ephemeroot.linux import mountinfo
from ephemeroot.linux.namespace import Namespace
from ephemeroot.old_roots import histories, history_size
from ephemeroot.old_roots.comparison import DELETED
from ephemeroot.old_roots.histories import Keeper
from ephemeroot.plan import seeds
from ephemeroot.status import forgotten

_Found = TypeVar("_Found")

_SECONDS = 10  # time limit for all measurements


@dataclass(frozen=True, slots=True)
class Holder:
    """One user of disk space: ``size`` in bytes, ``hint`` a command or empty."""

    name: str
    size: int
    hint: str

    def describe(self) -> str:
        """Name, size and hint as one phrase."""
        return f"{self.name} ({amounts.size(self.size)}{': ' + self.hint if self.hint else ''})"


def look(root: str, plan: Plan) -> Iterator[tuple[Holder, str]]:
    """The users of disk space, each with a path on its filesystem. Those that cannot be measured
    are left out: the list only explains a problem that is reported anyway.
    """
    deadline = time.monotonic() + _SECONDS
    for keeper in _keepers(root, plan):
        for measure in (_old_roots, _old_bases):
            holder = _or_nothing(lambda m=measure, k=keeper: m(k, deadline))  # type: ignore[misc]
            if holder is not None and holder.size:
                yield holder, keeper.target
    holder = _or_nothing(lambda: _unsaved(root))
    if holder is not None:
        yield holder, "/"
    points = {mount.point for mount in mountinfo.mounts()}
    for path, store in plan.declared().items():
        if time.monotonic() > deadline:
            return
        kept = Path(histories.below(root, store)) / path.lstrip("/")
        size = _or_nothing(lambda kept=kept: seeds.measure(kept, points)[0])  # type: ignore[misc]
        if size:
            yield Holder(f"{store}{path}", size, ""), store


def _or_nothing(look: Callable[[], _Found]) -> _Found | None:
    try:
        return look()
    except (EphemerootError, OSError, ImportError):
        return None


def _keepers(root: str, plan: Plan) -> list[Keeper]:
    return _or_nothing(lambda: histories.made_fresh(root, plan)) or []


def _old_roots(keeper: Keeper, deadline: float) -> Holder | None:
    if not keeper.wiper.keeps:
        return None
    with Namespace() as private, keeper.history(private) as history:
        sizes = [history_size.measure(history, one, deadline) for one in history.retired()]
    return _several(sizes, f"old root of {keeper.target}", f"old roots of {keeper.target}",
                    "'ephemeroot roots list'")  # fmt: skip


def _old_bases(keeper: Keeper, deadline: float) -> Holder | None:
    if keeper.target != "/":
        return None
    with Namespace() as private:
        backend = backends.of(keeper.wiper)
        with backend.bases(keeper.place, private, writable=False) as bases:
            sizes = _sizes_of_bases(bases, deadline)
    return _several(sizes, "old base", "old bases", "'ephemeroot base list'")


def _sizes_of_bases(bases: Bases, deadline: float) -> list[int | None]:
    return [bases.measure(one, deadline) for one in bases.old()]


def _several(sizes: list[int | None], one: str, many: str, hint: str) -> Holder | None:
    known = [size for size in sizes if size is not None]
    if not known:
        return None
    return Holder(terminal.count(len(sizes), one, many), sum(known), hint)


def _unsaved(root: str) -> Holder | None:
    """Files that were added to this root since it was made."""
    found = [one for one in forgotten.look(root, everything=True) if one.change != DELETED]
    if not found:
        return None
    largest = max(found, key=lambda one: one.size)
    name = f"files of this root that do not persist, the largest {largest.path}"
    return Holder(name, sum(one.size for one in found), "'ephemeroot diff --all'")
