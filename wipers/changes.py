"""Changes to the history, as steps: each is proven when it is carried out."""

from __future__ import annotations

from ephemeroot.errors import EphemerootError
from ephemeroot.step import Step
from ephemeroot.wipers.oldroot import RECIPE, RETIRED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeroot.wipers.history import History
    from ephemeroot.wipers.names import Name
    from ephemeroot.wipers.oldroot import OldRoot


class Deletion(Step):
    """Delete one old root and its records.

    ``execute`` proves first that it is the listed one, under a name of Ephemeroot's, not marked
    ``.keep``, and not in use (``History.prove``); raises ``EphemerootError`` or ``OSError``
    otherwise. ``recipe`` lets names of the shell recipe pass.
    """

    GOES_ON = True
    __slots__ = ("entry", "history", "reason", "recipe")

    def __init__(
        self, history: History, entry: OldRoot, reason: str, *, recipe: bool = False
    ) -> None:
        self.history = history
        self.entry = entry
        self.reason = reason
        self.recipe = recipe

    def describe(self) -> str:
        return f"delete old {self.history.NOUN} {self.entry.label} ({self.reason})"

    def prove(self) -> None:
        """Raise what ``execute`` would raise before it changes anything."""
        self._prove_name()
        self.history.prove(self.entry)

    def execute(self) -> str:
        self._prove_name()
        self.history.delete(self.entry)
        return self.entry.label

    def _prove_name(self) -> None:
        entry = self.entry
        if entry.name is not None and entry.name.keep:
            raise EphemerootError(
                f"old {self.history.NOUN} {entry.label} is marked .keep",
                f"if it is no longer needed, run 'ephemeroot roots unkeep {entry.label}' first",
            )
        if entry.kind != RETIRED and not (self.recipe and entry.kind == RECIPE):
            raise EphemerootError(
                f"{self.history.path(entry)} was not retired by ephemeroot: not touched"
            )


class Claim(Step):
    """Claim a *history*: its ``system`` retires roots into it and prunes it from then on."""

    GOES_ON = True
    __slots__ = ("history",)

    def __init__(self, history: History) -> None:
        self.history = history

    def describe(self) -> str:
        before = self.history.owner() or "no system"
        return f"claim {self.history.where}, which belongs to {before}"

    def execute(self) -> str:
        self.history.set_owner(self.history.system)
        return self.history.where


class Renaming(Step):
    """Give one old root another name of Ephemeroot's; ``why`` is for people."""

    GOES_ON = True
    __slots__ = ("entry", "history", "name", "why")

    def __init__(self, history: History, entry: OldRoot, name: Name, why: str) -> None:
        self.history = history
        self.entry = entry
        self.name = name
        self.why = why

    def describe(self) -> str:
        return f"rename old {self.history.NOUN} {self.entry.label} to {self.name} ({self.why})"

    def execute(self) -> str:
        return self.history.rename(self.entry, self.name)


def keep(history: History, label: str, *, wanted: bool = True) -> Renaming | None:
    """Mark the old root *label* ``.keep``, or take the mark away; ``None`` if it is so.

    Raises ``Misconfigured`` if there is no such old root or its name is not ours.
    """
    entry = history.find(label)
    if entry.name is None:
        raise EphemerootError(
            f"{history.path(entry)} was not retired by ephemeroot, so it is never pruned"
        )
    if entry.name.keep == wanted:
        return None
    why = "exclude from pruning" if wanted else "allow pruning"
    return Renaming(history, entry, entry.name.changed(keep=wanted), why)


def delete(history: History, label: str) -> Deletion:
    """Delete the old root *label* by hand, whatever its age."""
    return Deletion(history, history.find(label), "by hand", recipe=True)


def delete_recipe(history: History) -> list[Deletion]:
    """Delete all old roots with names of the shell recipe, by hand."""
    return [
        Deletion(history, entry, "retired by the shell recipe", recipe=True)
        for entry in history.entries()
        if entry.kind == RECIPE
    ]


def attempt(
    line: str, action: Callable[[], object], problems: list[str], log: Callable[[str], None]
) -> bool:
    """Say *line* and run *action*; whether it did not fail. A failure is one of the *problems*."""
    log(line)
    try:
        action()
    except (EphemerootError, OSError) as error:
        problems.append(f"{line}: {error}")
        return False
    return True
