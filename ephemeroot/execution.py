"""Execution of the steps of a verb: dry run, failures and interruption, alike for all verbs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ephemeroot.errors import EphemerootError
from ephemeroot.step import Step

DRY_RUN = "not done: dry run"
_FAILED = "failed: "


class Interrupted(KeyboardInterrupt):
    """The user has interrupted a step. The argument is the description of the step."""


class Action(Step):
    """A step that calls *function*, which returns the outcome."""

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
    """The result of ``step``. ``line`` is its description from before the run, ``outcome`` the text
    that it returned, ``error`` the reason if it failed.
    """

    step: Step
    line: str
    outcome: str = ""
    error: EphemerootError | OSError | None = None
    is_dry_run: bool = False

    @property
    def failed(self) -> bool:
        """Whether the step failed."""
        return self.error is not None

    @property
    def reason(self) -> str:
        """The reason of the failure without the hint; empty after a success."""
        return "" if self.error is None else reason(self.error)

    @property
    def hint(self) -> str:
        """The next step after the failure; may be empty."""
        return self.error.hint if isinstance(self.error, EphemerootError) else ""

    @property
    def text(self) -> str:
        """The outcome, also of a dry run and of a failure."""
        if self.is_dry_run:
            return DRY_RUN
        return f"{_FAILED}{self.reason}" if self.failed else self.outcome

    @property
    def problem(self) -> str:
        """The description of the step and the reason of its failure."""
        return f"{self.line}: {self._cause}"

    @property
    def _cause(self) -> str:
        return f"{self.reason} ({self.hint})" if self.hint else self.reason

    def as_json(self) -> dict[str, object]:
        """The description and the outcome, for ``--json``."""
        text = f"{_FAILED}{self._cause}" if self.failed else self.text
        return {"step": self.line, "result": text}


class Execution:
    """One run of steps. In a *dry_run* no step is executed.

    *on_start* is called with each step before it is executed, *on_result* with each result as soon
    as it is known. ``results`` has all results so far.
    """

    def __init__(
        self,
        on_result: Callable[[Result], None] | None = None,
        *,
        dry_run: bool = False,
        on_start: Callable[[Step], None] | None = None,
    ) -> None:
        self.on_result = on_result
        self.on_start = on_start
        self.dry_run = dry_run
        self.results: list[Result] = []

    def run(self, steps: Iterable[Step]) -> list[Result]:
        """Execute *steps* in their order; return their results.

        The error of a failed step ends the run, unless the step has ``GOES_ON``. Raises
        ``Interrupted`` with the description of the interrupted step.
        """
        return [self.one(step) for step in steps]

    def one(self, step: Step) -> Result:
        """Execute one step. Raises the same errors as ``run``."""
        line = step.describe()
        if self.dry_run:
            return self.note(Result(step, line, is_dry_run=True))
        if self.on_start is not None:
            self.on_start(step)
        try:
            outcome = step.execute()
        except KeyboardInterrupt:
            raise Interrupted(line) from None
        except (EphemerootError, OSError) as error:
            if not step.GOES_ON:
                raise
            return self.note(Result(step, line, error=error))
        return self.note(Result(step, line, outcome))

    def note(self, result: Result) -> Result:
        """Add the *result* of a step and report it."""
        self.results.append(result)
        if self.on_result is not None:
            self.on_result(result)
        return result

    @property
    def lines(self) -> list[str]:
        """The descriptions of all steps so far."""
        return [result.line for result in self.results]

    @property
    def problems(self) -> list[str]:
        """The steps that failed, one line each."""
        return [result.problem for result in self.results if result.failed]

    @property
    def failed(self) -> bool:
        """Whether any step failed."""
        return any(result.failed for result in self.results)


def reason(error: EphemerootError | OSError) -> str:
    """The reason of *error*: one line, without a hint."""
    if isinstance(error, EphemerootError):
        return error.message
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"
