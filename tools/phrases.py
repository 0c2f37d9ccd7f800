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
    # Variants of the same, which are not in the table.
    "that was.": r"\bthat (?:was|were|is|are)(?=[.,;:)]|$)|\bas ever\b"
    r"|\bas (?:it|they) (?:was|were)(?=[.,;:)]|$)",
    "be none": r"\bbe(?:ing|en|comes?)? none\b|\b(?:makes?|finds?|leaves?) none\b"
    r"|\bnone (?:is|are|was|were|either)\b",
    "be no …": r"(?<!there )(?<!there would )\bbe(?:ing|en|comes?)? no\b(?! longer| more)"
    r"|\b(?:hold|make|makes|made|name|named) no\b",
    "nothing of": r"\bnothing of\b|\bnothing (?:is|was) left\b"
    r"|\b(?:is|was) nothing\b(?! to| else)",
    "nor is it": r"(?<!and )\b(?:nor|neither|so) (?:is|are|was|were|does|do|has|have)"
    r" (?:an?|the|it|its|they|this|that|each|any)\b|\bno such is\b",
    "what follows": r"(?<!show )(?<!shows )(?<!print )(?<!prints )(?<!say )(?<!says )(?<!only )"
    r"\bwhat (?:follows|remain(?:s|ed)?|exist(?:s|ed)?|fail(?:s|ed)?|need(?:s|ed)?|makes?|made"
    r"|survives?|comes?|came|stay(?:s|ed)?|goes|went|differs?|boot(?:s|ed)?|changed|changes|counts"
    r"|belongs|gets?|got|did|does|can|could|may|might|must|will|would|should|only|else|lay|runs?"
    r"|ran|uses?|holds?|nothing|no)\b",
    "already so": r"\balready so\b|\b(?:there|done|gone|it) already\b",
    "in again": r"\b(?:in|off|on|there) again\b|\bonce more\b|\banew\b|\ball the same\b",
    ", for it": r"[,;)] for (?:it|they|there|this|that|these|those|nothing|we|you|both|all)"
    r" (?!of\b)|[,;)] for (?:the|an?|its?|each|no|every|another|other|some|only|root's?)"
    r" (?:[\w'./-]+ ){1,4}?(?:is|are|was|were|has|have|had|does|do|did|would|will|can"
    r"|cannot|may|must|fails?|replaces?|comes?|needs?|makes?|takes?|keeps?|lacks?|knows?)\b",
    "is there": r"\b(?:is|are|was|were|be) (?:not |still |yet |already |never |also )?there\b"
    r"(?! (?:is|are|for|was))",
    "counts as": r"(?<!lower )(?<!the )(?<!/)\bcounts(?=[,;:)]|\.(?!\w))"
    r"|\bcounts? (?:for nothing|then|only|here)\b"
    r"|\bthe last count\b|\bwins? over\b",
    "mend, told": r"\bmend(?:s|ed|ing)?\b|\b(?:is|are|was|were) (?:not )?told\b"
    r"|\btells (?:whether|what|which|how|it|the|you)\b",
    "go on": r"\bgo(?:es|ing|ne)? on\b|\bwent on\b",
    "by us": r"\bby us\b|\bof ours\b",
    "archaic": r"\b(?:therein|thereof|hence|lest|whence|thither|besides|nought|wholly|shall)\b"
    r"|\bis to be\b|\bof (?:root|users?)'s\b",
    "at work": r"\bat work\b|\bwithout a word\b|\bin the place of\b",
}


# Where a paragraph ends without a blank line: mdoc(7)'s macros, and lists and tables of Markdown.
_BREAK = r"\.(?:Pp|Sh|Ss|It|Bl|El|Bd|Ed)\b|\s*[-*|] "


Found = tuple[int, str]


def of_module(path: Path) -> tuple[list[Found], list[Found], list[Found]]:
    """The messages of a module, its docstrings and comments, and the names of its tests, each with
    its line.
    """
    text = path.read_text(encoding="utf-8")
    nodes = list(ast.walk(ast.parse(text)))
    prose = {
        node.value
        for node in nodes
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    strings = [
        (node.lineno, node.value, node in prose)
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    tests = [
        (node.lineno, node.name.replace("_", " "))
        for node in nodes
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    docstrings = [(line, " ".join(value.split())) for line, value, is_prose in strings if is_prose]
    messages = [(line, value) for line, value, is_prose in strings if not is_prose]
    return messages, [*docstrings, *comments(text)], tests


def comments(text: str) -> Iterator[Found]:
    """Comments, consecutive lines as one."""
    start, lines = 0, list[str]()
    for number, line in enumerate([*text.splitlines(), ""], 1):
        found = re.search(r"(?:^|\s)#(?: (.*)|$)", line)
        whole = found is not None and line.lstrip().startswith("#")
        if lines and not whole:
            yield start, " ".join(lines)
            lines.clear()
        if found and whole:
            start = start if lines else number
            lines.append(found[1] or "")
        elif found:
            yield number, found[1] or ""


def paragraphs(path: Path) -> Iterator[tuple[int, str]]:
    """The paragraphs of a document as one line each: a phrase may continue on the next line."""
    start, lines = 1, list[str]()
    for number, line in enumerate([*path.read_text(encoding="utf-8").splitlines(), ""], 1):
        begins = not line.strip() or re.match(_BREAK, line)
        if begins and lines:
            yield start, " ".join(lines)
            lines.clear()
        if line.strip():
            start = start if lines else number
            lines.append(line.strip())


# The text that people read, by place; the names are those of the ceilings.
PROGRAM = ("ephemeroot", "hooks", "wipers")
TESTS = ("tests", "vm-tests", "bench", "demo", "tools")
GLUE = ("systemd", "dracut", "mkinitcpio", "packaging")
PLACES = (
    "messages", "manual", "README", "docs", "project documents", "units and shell", "demo",
    "comments", "comments of tests", "test names",
)  # fmt: skip
EXCEPT = ("tools/phrases.py", "tests/project/test_phrases.py", "packaging/debian/copyright")
"""They quote the phrases, or a licence."""


def places() -> Iterator[tuple[str, Path, int, str]]:
    """Place, file, line and text of everything that people read."""
    for folder in (*PROGRAM, *TESTS):
        for path in sorted((TOP / folder).rglob("*.py")):
            if str(path.relative_to(TOP)) in EXCEPT or "logs" in path.parts:
                continue
            strings, prose, tests = of_module(path)
            product = folder in PROGRAM
            if product or folder == "demo":
                place = "messages" if product else "demo"
                yield from ((place, path, *found) for found in strings)
            place = "comments" if product else "comments of tests"
            yield from ((place, path, *found) for found in prose)
            yield from (("test names", path, *found) for found in tests)
    for path in sorted((TOP / "man").iterdir()):
        yield from (("manual", path, *found) for found in paragraphs(path))
    yield from (("README", TOP / "README.md", *found) for found in paragraphs(TOP / "README.md"))
    for path in sorted((TOP / "docs").glob("*.md")):
        yield from (("docs", path, *found) for found in paragraphs(path))
    for path in sorted(TOP.glob("[CS]*.md")):
        # CONTRIBUTING.md has the phrases and what to write instead in a table.
        rows = re.compile(r"\| .* \| .* \|$") if path.stem == "CONTRIBUTING" else None
        found = (one for one in paragraphs(path) if not (rows and rows.match(one[1])))
        yield from (("project documents", path, *one) for one in found)
    glue = [path for folder in GLUE for path in sorted((TOP / folder).rglob("*"))]
    for path in (*glue, *sorted(TOP.glob("ephemeroot/**/*.sh"))):
        if path.is_dir() or str(path.relative_to(TOP)) in EXCEPT:
            continue
        yield from (("units and shell", path, *found) for found in shell(path))


def shell(path: Path) -> Iterator[Found]:
    """Comments, and the other lines."""
    text = path.read_text(encoding="utf-8")
    yield from comments(text)
    for number, line in enumerate(text.splitlines(), 1):
        if not line.lstrip().startswith("#"):
            yield number, re.sub(r"\s# .*", "", line)


def main(words: list[str]) -> int:
    """The command line; returns the exit status."""
    if words not in ([], ["--show"], ["--lower"]):
        print(__doc__, file=sys.stderr)
        return 2
    counts = {place: Counter[str]() for place in PLACES}
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
        f"{place}: '{name}' {found[name]} times, at most "
        f"{known.get(place, {}).get(name, 0)} are allowed"
        for place, found in counts.items()
        for name in PHRASES
        if found[name] > known.get(place, {}).get(name, 0)
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
