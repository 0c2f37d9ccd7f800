"""Record the demo as the picture in README.md: `make recording` (root).

The demo runs on a terminal of its own. Its lines scroll by at the pace at which they came, slowed
down where that was too fast to read, and the picture needs nothing but a browser.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

PICTURE = Path(__file__).resolve().parent.parent / "docs/demo.svg"

COLUMNS, ROWS = 110, 32
# Pixels of a character in the font below; and around everything.
WIDTH, HEIGHT, MARGIN = 8.4, 18, 14
# Seconds from one line to the next at least, and for which the end stays.
PACE, END = 0.16, 8.0

CLASSES = {"1": "bold", "2": "dim", "32": "green", "33": "yellow"}

STYLE = """\
text {{ font: 14px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #d4d4d4;
       white-space: pre }}
.bold {{ font-weight: bold; fill: #ffffff }}
.dim {{ fill: #8f8f8f }}
.green {{ fill: #7ec07e }}
.yellow {{ fill: #d7ba5d }}
#lines {{ transform: translateY({end}px); animation: scroll {length:.2f}s steps(1, end) infinite }}
@media (prefers-reduced-motion: reduce) {{ #lines {{ animation: none }} }}
@keyframes scroll {{
{frames}
}}"""

_COLOURED = re.compile(r"\033\[([\d;]*)m([^\033]*)")


def record() -> Iterator[tuple[float, str]]:
    """Each line of the demo, with the seconds from its start. Raises ``SystemExit`` if it fails."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "LINES": str(ROWS), "TERM": "xterm"}
    environment.pop("NO_COLOR", None)
    begun = time.monotonic()
    demo = subprocess.Popen(
        [sys.executable, "-P", Path(__file__).parent],
        env=environment, stdin=follower, stdout=follower, stderr=follower,
    )  # fmt: skip
    os.close(follower)
    with open(leader, encoding="utf-8", newline="") as output:
        try:
            for line in output:
                yield time.monotonic() - begun, line.rstrip("\r\n")
        except OSError:  # how Linux tells that no process has the terminal open any more
            pass
    if demo.wait() != 0:
        raise SystemExit("recording: the demo failed")


def draw(lines: list[tuple[float, str]]) -> str:
    """The picture, as SVG."""
    frames, now = [], 0.0
    for number, (seconds, _) in enumerate(lines):
        now = max(seconds, now + PACE)
        frames.append((now, (ROWS - 1 - number) * HEIGHT))
    length, end = now + END, frames[-1][1]
    width, height = round(COLUMNS * WIDTH + 2 * MARGIN), ROWS * HEIGHT + 2 * MARGIN
    steps = [(0.0, ROWS * HEIGHT), *frames, (length, end)]
    style = STYLE.format(
        end=end,
        length=length,
        frames="\n".join(
            f"{at / length:.3%} {{ transform: translateY({y}px) }}" for at, y in steps
        ),
    )
    texts = "\n".join(
        f'<text x="{MARGIN}" y="{MARGIN + number * HEIGHT + 14}">{_spans(line)}</text>'
        for number, (_, line) in enumerate(lines)
    )
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"
  viewBox="0 0 {width} {height}">
<title>make demo: three boots of a throw-away machine</title>
<style>
{style}
</style>
<clipPath id="screen"><rect x="0" y="{MARGIN}" width="{width}" height="{ROWS * HEIGHT}"/></clipPath>
<rect width="{width}" height="{height}" rx="8" fill="#1e1e1e"/>
<g clip-path="url(#screen)"><g id="lines" xml:space="preserve">
{texts}
</g></g>
</svg>
"""


def _spans(line: str) -> str:
    """A line with the terminal's colours as spans."""
    plain, *coloured = re.split(r"(?=\033\[)", line)
    spans = [escape(plain)]
    for part in coloured:
        codes, text = _COLOURED.match(part).groups()  # type: ignore[union-attr]
        names = " ".join(CLASSES[code] for code in codes.split(";") if code in CLASSES)
        spans.append(f'<tspan class="{names}">{escape(text)}</tspan>' if names else escape(text))
    return "".join(spans)


if __name__ == "__main__":
    PICTURE.write_text(draw(list(record())), encoding="utf-8")
    print(PICTURE)
