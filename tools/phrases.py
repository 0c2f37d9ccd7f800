#!/usr/bin/env python3
"""Count the phrases that people stumble over, in everything that they read.

    tools/phrases.py           fail if a count is above its ceiling
    tools/phrases.py --show    each phrase with its place
    tools/phrases.py --lower   lower the ceilings to the present counts; no ceiling ever rises

The ceilings are in tools/phrases.json: for each place, a count for each kind of phrase. What to
write instead is in CONTRIBUTING.md.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
CEILINGS = TOP / "tools/phrases.json"

_THING = r"(?:roots?|ones?|bases?|files?|layers?|subvolumes?|datasets?|homes?)"
PHRASES = {
    "the root that was": rf"\b{_THING} that (?:was|were|(?:is|are) about to go)\b(?! \w+ed)",
    "is no …": r"(?<!there )\b(?:is|are|was|were|holds|names) no(?:ne)?\b(?! longer| more)",
    "nobody, somebody": r"\b(?:nobody|somebody|whoever|everybody|anybody|someone|whom)\b",
    "what is, what was": r"\bwhat (?:is|was|were|are|ha[sd]|have|persist(?:s|ed)|lies)\b",
    "is so already": r"\b(?:is so already|was there|were there|nothing of it is left)\b",
    "lies in": r"\b(?:lies?|lay) (?:in|below|on|under|beside|about|there)\b|\bbelongs into\b"
    r"|\bfrom now on\b",
    "play the next boot": r"\bplay(?:s|ed)? the next boot\b|\bthe stages? says?\b"
    r"|\bspeaks? for itself\b",
    "X counts": r"\b(?:has|have) the last word\b|\bat seven in the morning\b"
    r"|\b(?:also|all the same|that|which|it|this) counts\b",
    "carry over, catch up": r"\b(?:carr(?:y|ied|ies)|took|taken?|takes|bring|brings|brought) over\b"
    r"|\bca(?:tch|tches|ught) up\b",
    "out again": r"\bout again\b|\bthose that (?:were|are not)\b",
}


# Where a paragraph ends without a blank line: mdoc(7)'s macros, and lists and tables of Markdown.
_BREAK = r"\.(?:Pp|Sh|Ss|It|Bl|El|Bd|Ed)\b|\s*[-*|] "


def messages(path: Path) -> Iterator[tuple[int, str]]:
    """The string constants of a module, without docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in prose:
            yield node.lineno, node.value


def paragraphs(path: Path) -> Iterator[tuple[int, str]]:
    """The paragraphs of a document as one line each: a phrase may go over the end of a line."""
    start, lines = 1, list[str]()
    for number, line in enumerate([*path.read_text(encoding="utf-8").splitlines(), ""], 1):
        begins = not line.strip() or re.match(_BREAK, line)
        if begins and lines:
            yield start, " ".join(lines)
            lines.clear()
        if line.strip():
            start = start if lines else number
            lines.append(line.strip())


def places() -> Iterator[tuple[str, Path, int, str]]:
    """Place, file, line and text of everything that people read."""
    for folder in ("ephemeroot", "hooks", "wipers"):
        for path in sorted((TOP / folder).rglob("*.py")):
            yield from (("messages", path, line, text) for line, text in messages(path))
    for path in sorted((TOP / "man").iterdir()):
        yield from (("manual", path, line, text) for line, text in paragraphs(path))
    yield from (("README", TOP / "README.md", *found) for found in paragraphs(TOP / "README.md"))
    for path in sorted((TOP / "docs").glob("*.md")):
        yield from (("docs", path, line, text) for line, text in paragraphs(path))


def main(words: list[str]) -> int:
    """The command line; returns the exit status."""
    if words not in ([], ["--show"], ["--lower"]):
        print(__doc__, file=sys.stderr)
        return 2
    counts = {place: Counter[str]() for place in ("messages", "manual", "README", "docs")}
    for place, path, line, text in places():
        for name, pattern in PHRASES.items():
            for found in re.finditer(pattern, text, re.IGNORECASE):
                counts[place][name] += 1
                if words == ["--show"]:
                    print(f"{path.relative_to(TOP)}:{line}: {found.group()} ({name})")
    if words == ["--show"]:
        return 0
    known = json.loads(CEILINGS.read_text()) if CEILINGS.exists() else {}
    if words == ["--lower"]:
        lowered = {
            place: {
                name: min(found[name], known.get(place, {}).get(name, found[name]))
                for name in PHRASES
            }
            for place, found in counts.items()
        }
        CEILINGS.write_text(json.dumps(lowered, indent=2, ensure_ascii=False) + "\n")
        return 0
    above = [
        f"{place}: '{name}' {found[name]} times, at most {known[place][name]} are allowed"
        for place, found in counts.items()
        for name in PHRASES
        if found[name] > known[place][name]
    ]
    for complaint in above:
        print(complaint)
    if above:
        print(
            "hint: 'tools/phrases.py --show' has the places, CONTRIBUTING.md what to write instead"
        )
    return int(bool(above))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
