"""A progress bar for a long copy, on a terminal only."""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType
from typing import TextIO

from ephemeroot import amounts, terminal

_BAR = 24
_EVERY = 0.1  # seconds


class Progress:
    """A bar up to *total* bytes; without a bar if that is ``None``.

    ``with Progress("copying", total) as progress: …; progress.update(done, "a file")``. It is drawn
    only if *stream* (standard error) is a terminal, at most ten times a second, and is removed at
    the end.
    """

    def __init__(self, what: str, total: int | None, stream: TextIO | None = None) -> None:
        self.what = what
        self.total = total
        self.stream = stream or sys.stderr
        self.shown = self.stream.isatty()
        self.started = time.monotonic()
        self.drawn = 0.0
        self.width = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.clear()

    def update(self, done: int, now: str = "") -> None:
        """Show that *done* bytes are done, and the name of the present file in *now*."""
        moment = time.monotonic()
        if not self.shown or moment - self.drawn < _EVERY:
            return
        self.drawn = moment
        line = self._line(done, moment - self.started)
        if now:
            line += f"  {terminal.printable(now)}"
        self._draw(line)

    def clear(self) -> None:
        """Remove the line, before other output."""
        if self.width:
            self.stream.write("\r" + " " * self.width + "\r")
            self.stream.flush()
            self.width = 0
        self.drawn = 0.0

    def _line(self, done: int, seconds: float) -> str:
        rate = f"{amounts.size(int(done / seconds))}/s" if seconds > 1 else ""
        if not self.total:
            return f"{self.what} {amounts.size(done)} {rate}".rstrip()
        part = min(done / self.total, 1.0)
        full = int(part * _BAR)
        bar = "#" * full + "." * (_BAR - full)
        left = f"{_duration(seconds / part - seconds)} left" if part > 0 and seconds > 1 else ""
        words = [f"{self.what} [{bar}] {int(part * 100):3}%", f"of {amounts.size(self.total)}"]
        return "  ".join([*words, *filter(None, (rate, left))])

    def _draw(self, line: str) -> None:
        line = line[: shutil.get_terminal_size().columns - 1]
        self.stream.write("\r" + line.ljust(self.width))
        self.stream.flush()
        self.width = len(line)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
