"""Paths that boots could not seed, from the records in the stores (``hooks/store/unseeded``)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ephemeroot.errors import EphemerootError
from ephemeroot.hooks import tree
from ephemeroot.hooks.omission import Omission
from ephemeroot.hooks.plan import Plan
from ephemeroot.hooks.store import unseeded
from ephemeroot.step import Step
from ephemeroot.wipers import names


def read(root: Path, plan: Plan, problems: list[str]) -> list[Omission]:
    """The records in the stores of *plan*, mounted under *root*. A missing store is skipped; errors
    in other stores are added to *problems*.

    Raises ``PermissionError``.
    """
    found = []
    for path in [store.path for store in plan.stores()]:
        try:
            with _opened(root, path) as fd:
                if fd >= 0:
                    found += unseeded.read(fd, path)
        except PermissionError:
            raise
        except (EphemerootError, OSError) as error:
            problems.append(
                f"cannot read the record of unseeded paths in the store {path}: {error}"
            )
    return found


def of_root(found: list[Omission], target: str, label: str) -> list[Omission]:
    """The omissions for which the old root *label* of *target* is kept."""
    name = names.parse(label)
    text = name.text if name is not None else label
    return [one for one in found if one.target == target and one.root == text]


def is_missing(root: Path, omission: Omission) -> bool:
    """Whether the store lacks the path altogether, so that it is not in effect."""
    with _opened(root, omission.store) as store:
        return store >= 0 and unseeded.is_missing(store, omission)


def forget(root: Path, store: str, source: str) -> None:
    """Remove the record of *source* in *store*: the omission was repaired or accepted."""
    with _opened(root, store) as fd:
        if fd >= 0:
            unseeded.forget(fd, store, source=source)


class Forgetting(Step):
    """Removes the record of *omission*, for which its old root is no longer kept."""

    GOES_ON = True
    __slots__ = ("omission", "root")

    def __init__(self, root: Path, omission: Omission) -> None:
        self.root = root
        self.omission = omission

    def describe(self) -> str:
        return f"stop reporting that {self.omission.describe()}"

    def execute(self) -> str:
        one = self.omission
        with _opened(self.root, one.store) as store:
            if store < 0:
                raise EphemerootError(
                    f"cannot remove the record in the store {one.store}: the store is missing",
                    "mount its volume, then run the command again",
                )
            unseeded.forget(store, one.store, target=one.target, root=one.root)
        return one.root


@contextmanager
def _opened(root: Path, store: str) -> Iterator[int]:
    """The open directory of *store*; -1 if it is missing."""
    try:
        fd = os.open(root / store.lstrip("/"), tree.DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        yield -1
        return
    try:
        yield fd
    finally:
        os.close(fd)
