"""Boxes, lines of text and arrows, as SVG that is readable in light and dark."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

# Pixels: a line of text, the average width of a character, the space inside of a box.
LINE, CHARACTER, PADDING = 21, 7.9, 11

# The reader's browser reports whether it is dark; the site sets the three variables with its own
# switch.
STYLE = """\
.picture { --ink: #1f2328; --muted: #59636e; --paper: #ffffff }
@media (prefers-color-scheme: dark) {
  .picture { --ink: #e6edf3; --muted: #9aa4ae; --paper: #15181c }
}
.picture text { font: 15px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: var(--ink) }
.picture .code { font-family: ui-monospace, Menlo, "DejaVu Sans Mono", monospace; font-size: 13px }
.picture .title { font-weight: 600; font-size: 16px }
.picture .muted { fill: var(--muted) }
.picture .paper { fill: var(--paper) }
.picture rect { rx: 6px }
.picture .plain { fill: var(--muted); fill-opacity: .1; stroke: var(--muted); stroke-opacity: .45 }
.picture .none { fill: none; stroke: var(--muted); stroke-opacity: .45; stroke-dasharray: 4 3 }
.picture .red { fill: #e5484d; fill-opacity: .16; stroke: #e5484d }
.picture .green { fill: #2e9e5b; fill-opacity: .16; stroke: #2e9e5b }
.picture .blue { fill: #3b82f6; fill-opacity: .14; stroke: #3b82f6 }
.picture .amber { fill: #d98e04; fill-opacity: .16; stroke: #d98e04 }
.picture .line { fill: none; stroke-width: 2.5; fill-opacity: 0; stroke-linejoin: round }
.picture .axis { fill: none; stroke: var(--muted); stroke-opacity: .45 }
.picture .arrow { fill: none; stroke: var(--muted); stroke-width: 1.6 }
.picture .head { fill: var(--muted) }"""


@dataclass
class Drawing:
    """A picture with a *title* for screen readers; in pixels from its upper left corner."""

    title: str
    width: int
    parts: list[str] = field(default_factory=list)
    bottom: int = 0

    def text(self, x: float, y: float, words: str, kind: str = "") -> None:
        """One line whose base line is at *y*; text in back quotes is code."""
        spans = "".join(
            f'<tspan class="code">{escape(part)}</tspan>' if number % 2 else escape(part)
            for number, part in enumerate(words.split("`"))
        )
        kind = f' class="{kind}"' if kind else ""
        self.parts.append(f'<text x="{x:g}" y="{y:g}"{kind}>{spans}</text>')
        self._reach(y + 6)

    def box(self, x: float, y: float, width: float, height: float, kind: str = "plain") -> None:
        """A rectangle."""
        self.parts.append(
            f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"/>'
        )
        self._reach(y + height)

    def card(
        self, x: float, y: float, width: float, words: str, kind: str = "plain", height: float = 0
    ) -> float:
        """A box with text, as high as the text needs or *height*. Returns its lower edge."""
        lines = wrap(words, width)
        height = max(height, high(words, width))
        self.box(x, y, width, height, kind)
        for number, line in enumerate(lines):
            self.text(x + PADDING, y + PADDING + 13 + number * LINE, line)
        return y + height

    def arrow(self, *points: tuple[float, float]) -> None:
        """A line through *points* whose head is at the last one."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.parts.append(f'<polyline class="arrow" points="{path}"/>')
        (x0, y0), (x, y) = points[-2:]
        dx, dy = (x > x0) - (x < x0), (y > y0) - (y < y0)
        wings = [
            (x - 8 * dx - 4 * dy, y - 8 * dy - 4 * dx),
            (x - 8 * dx + 4 * dy, y - 8 * dy + 4 * dx),
        ]
        head = " ".join(f"{a:g},{b:g}" for a, b in [(x, y), *wings])
        self.parts.append(f'<polygon class="head" points="{head}"/>')

    def line(self, points: list[tuple[float, float]], kind: str) -> None:
        """A line through *points*: ``axis``, or a colour and the width of a curve."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        kind = kind if kind == "axis" else f"{kind} line"
        self.parts.append(f'<polyline class="{kind}" points="{path}"/>')
        self._reach(max(y for _, y in points))

    def _reach(self, y: float) -> None:
        self.bottom = max(self.bottom, round(y))

    def svg(self) -> str:
        """The file's text."""
        height = self.bottom + 12
        body = "\n".join(self.parts)
        return f"""\
<svg xmlns="http://www.w3.org/2000/svg" class="picture" role="img" width="{self.width}"
  height="{height}" viewBox="0 0 {self.width} {height}">
<title>{escape(self.title)}</title>
<style>
{STYLE}
</style>
<rect class="paper" width="{self.width}" height="{height}"/>
{body}
</svg>
"""


def wrap(words: str, width: float) -> list[str]:
    """The lines of a text in a box of that *width*; a line break stays one, code is not broken."""
    room = int((width - 2 * PADDING) / CHARACTER)
    lines: list[str] = []
    for line in words.split("\n"):
        # A space in code must not become the end of a line.
        kept = re.sub(r"`[^`]*`", lambda code: code[0].replace(" ", "\0"), line)
        found = textwrap.wrap(kept, room, break_on_hyphens=False, break_long_words=False)
        lines += [part.replace("\0", " ") for part in found or [""]]
    return lines


def high(words: str, width: float) -> float:
    """The height of a box of that *width* with the text."""
    return len(wrap(words, width)) * LINE + 2 * PADDING - 2
