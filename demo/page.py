"""What a person sees: headings, aligned lines, colour where there is a terminal."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence

BOLD, DIM, RED, GREEN, YELLOW = "1", "2", "31", "32", "33"


class Page:
    """Prints to standard output; in colour on a terminal unless ``NO_COLOR`` is set."""

    def __init__(self) -> None:
        self.width = min(shutil.get_terminal_size((100, 24)).columns, 110)
        self.coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def paint(self, text: str, *codes: str) -> str:
        """*text* in that colour, or as it is."""
        return f"\033[{';'.join(codes)}m{text}\033[0m" if self.coloured and text else text

    def heading(self, text: str) -> None:
        """A line that begins something new."""
        print(f"\n{self.paint(text, BOLD)}", flush=True)

    def blank(self) -> None:
        """An empty line."""
        print()

    def say(self, text: str) -> None:
        """Sentences of the story."""
        for line in text.splitlines():
            print(f"  {line}", flush=True)

    def quote(self, text: str) -> None:
        """The content of a file."""
        for line in text.splitlines():
            print(f"    {self.paint(line, DIM)}".rstrip(), flush=True)

    def item(self, label: str, text: str) -> None:
        """*text* after *label*; its further lines hang below its first."""
        start = f"    {label}  "
        lines = textwrap.wrap(
            text, self.width - len(start), break_long_words=False, break_on_hyphens=False
        )
        for number, line in enumerate(lines):
            print(f"{start if number == 0 else ' ' * len(start)}{line}", flush=True)

    def table(self, rows: Sequence[Sequence[str]], colours: Sequence[str] = ()) -> None:
        """Rows of cells, each column as wide as its widest; a row's last cell gets its colour."""
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        for number, row in enumerate(rows):
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            if number < len(colours) and colours[number]:
                cells[-1] = self.paint(row[-1], colours[number])
            print(f"    {'  '.join(cells)}".rstrip(), flush=True)
