"""Carrying out the steps of a verb: dry run, failures and interruption, the same for all verbs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ephemeroot.errors import EphemerootError
from ephemeroot.step import Step

DRY_RUN = "not done: dry run"
_FAILED = "failed: "


class Interrupted(KeyboardInterrupt):
    """The user has interrupted a step; its argument is the line of the step."""


class Action(Step):
    """A step that calls *function*, which returns what it came to."""

    __slots__ = ("function", "line")

    def __init__(self, line: str, function: Callable[[], str]) -> None:
        self.line = line
        self.function = function

    def describe(self) -> str:
        return self.line

    def execute(self) -> str:
        return self.function()


@dataclass(frozen=True, slots=True)
class Result:
    """How ``step`` went, whose ``describe`` said ``line`` before. ``words`` are what it came to;
    ``error`` is why it failed.
    """

    step: Step
    line: str
    words: str = ""
    error: EphemerootError | OSError | None = None
    is_dry_run: bool = False

    @property
    def failed(self) -> bool:
        """Whether it failed."""
        return self.error is not None

    @property
    def reason(self) -> str:
        """Why it failed, without the hint; empty if it did not."""
        return "" if self.error is None else reason(self.error)

    @property
    def hint(self) -> str:
        """What to do about the failure."""
        return self.error.hint if isinstance(self.error, EphemerootError) else ""

    @property
    def text(self) -> str:
        """What it came to, also for a dry run and a failure."""
        if self.is_dry_run:
            return DRY_RUN
        return f"{_FAILED}{self.reason}" if self.failed else self.words

    @property
    def problem(self) -> str:
        """The line, and why it failed."""
        return f"{self.line}: {self._cause}"

    @property
    def _cause(self) -> str:
        return f"{self.reason} ({self.hint})" if self.hint else self.reason

    def as_json(self) -> dict[str, object]:
        """For programs."""
        text = f"{_FAILED}{self._cause}" if self.failed else self.text
        return {"step": self.line, "result": text}


class Execution:
    """One run of steps. In a *dry_run* nothing is executed.

    *tell* is called with each result as soon as it is known, *before* with each step that is about
    to be executed. ``results`` has all so far.
    """

    def __init__(
        self,
        tell: Callable[[Result], None] | None = None,
        *,
        dry_run: bool = False,
        before: Callable[[Step], None] | None = None,
    ) -> None:
        self.tell = tell
        self.before = before
        self.dry_run = dry_run
        self.results: list[Result] = []

    def run(self, steps: Iterable[Step]) -> list[Result]:
        """Carry out *steps* in their order; return their results.

        A step that fails ends it with its error, unless it ``GOES_ON``. Raises ``Interrupted`` with
        the line of the step that was interrupted.
        """
        return [self.one(step) for step in steps]

    def one(self, step: Step) -> Result:
        """Carry out one step. Raises what ``run`` raises."""
        line = step.describe()
        if self.dry_run:
            return self.note(Result(step, line, is_dry_run=True))
        if self.before is not None:
            self.before(step)
        try:
            words = step.execute()
        except KeyboardInterrupt:
            raise Interrupted(line) from None
        except (EphemerootError, OSError) as error:
            if not step.GOES_ON:
                raise
            return self.note(Result(step, line, error=error))
        return self.note(Result(step, line, words))

    def note(self, result: Result) -> Result:
        """Add the *result* of a step that was carried out elsewhere, and tell it."""
        self.results.append(result)
        if self.tell is not None:
            self.tell(result)
        return result

    @property
    def lines(self) -> list[str]:
        """The lines of all steps so far."""
        return [result.line for result in self.results]

    @property
    def problems(self) -> list[str]:
        """The steps that failed, one line each."""
        return [result.problem for result in self.results if result.failed]

    @property
    def failed(self) -> bool:
        """Whether a step failed."""
        return any(result.failed for result in self.results)


def reason(error: EphemerootError | OSError) -> str:
    """The cause of *error*, in one line and without a hint."""
    if isinstance(error, EphemerootError):
        return error.message
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"
