"""The steps of a verb that arms or disarms the boot: shown first, then done, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ephemeroot import terminal
from ephemeroot.errors import EphemerootError

_FAILED = "failed: "


@dataclass(frozen=True)
class Step:
    """One thing to be done: the dry run prints the same ``line``. ``execute`` returns what
    came of it; ``image`` is whether it rebuilds an image.
    """

    line: str
    execute: Callable[[], str]
    image: bool = False


@dataclass(frozen=True)
class Result:
    """What came of ``step``, in words."""

    step: Step
    words: str

    @property
    def failed(self) -> bool:
        """Whether it is an image that was not rebuilt."""
        return self.words.startswith(_FAILED)

    def as_json(self) -> dict[str, str]:
        """For programs."""
        return {"step": self.step.line, "result": self.words}


def execute(
    steps: Iterable[Step], *, quiet: bool, before_line: Callable[[], None] = lambda: None
) -> list[Result]:
    """Do everything, and print a line for each unless *quiet*, after *before_line*.

    What fails ends it, but for an image: that stays unchanged, is of an older generation or
    disarmed, and does not wipe; the others are still rebuilt.
    """
    results = []
    for step in steps:
        try:
            words = step.execute()
        except (EphemerootError, OSError) as error:
            if not step.image:
                raise
            words = f"{_FAILED}{error}"
            before_line()
            terminal.error(f"{step.line}: {error}")
        else:
            before_line()
            if not quiet:
                terminal.say(f"{step.line}: {words}")
        results.append(Result(step, words))
    return results


def foresee(steps: Iterable[Step]) -> list[Result]:
    """The same for a dry run."""
    return [Result(step, "not done: dry run") for step in steps]
