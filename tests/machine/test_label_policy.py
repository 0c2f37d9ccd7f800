"""Labels agree with matchpathcon(8) over Debian's whole reference policy, both with libselinux and
with our reader for systems without it.
"""

from __future__ import annotations

import random
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from re import _parser  # type: ignore[attr-defined]
from typing import Any

import pytest

from checkout import CHECKOUT
from ephemeroot.machine.file_contexts import FileContexts
from ephemeroot.machine.libselinux import LibSelinux
from proof import rounds, sample

POLICY = CHECKOUT / ".venv/selinux"

pytestmark = [
    pytest.mark.requires_program("matchpathcon"),
    pytest.mark.skipif(not POLICY.exists(), reason="needs SELinux's policy: run tools/setup test"),
]

KINDS = {
    "--": ("file", stat.S_IFREG), "-d": ("dir", stat.S_IFDIR), "-l": ("lnk_file", stat.S_IFLNK),
    "-c": ("chr_file", stat.S_IFCHR), "-b": ("blk_file", stat.S_IFBLK),
    "-s": ("sock_file", stat.S_IFSOCK), "-p": ("pipe", stat.S_IFIFO),
}  # fmt: skip

# Later lines of file_contexts.subs take precedence, and they are applied before the distribution's.
LOCAL = "/persistent /\n/srv/old /var\n/srv/old /usr/local/lib64/x\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The policy, with equivalences added by an administrator."""
    made = tmp_path_factory.mktemp("policy")
    for file in POLICY.iterdir():
        (made / file.name).write_bytes(file.read_bytes())
    (made / "file_contexts.subs").write_text(LOCAL)
    (made / "file_contexts.local").write_text("/opt/a\\.b(/.*)?\tsystem_u:object_r:local_t:s0\n")
    return made


def example(pattern: Any, choose: random.Random) -> str:
    """A text that the parsed *pattern* matches."""
    text = ""
    for name, value in pattern:
        kind = str(name)
        if kind == "LITERAL":
            text += chr(value)
        elif kind in ("ANY", "NOT_LITERAL", "CATEGORY"):
            text += choose.choice("ab1/") if kind == "ANY" else "w"
        elif kind == "IN":
            text += member(value, choose)
        elif kind == "BRANCH":
            text += example(choose.choice(value[1]), choose)
        elif kind == "SUBPATTERN":
            text += example(value[3], choose)
        elif kind in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            least, most, inner = value
            for _ in range(choose.randint(least, min(int(most), least + 3))):
                text += example(inner, choose)
        else:
            assert kind == "AT", kind
    return text


def member(choices: Any, choose: random.Random) -> str:
    """A character of a set; for a negated set, one that is in no set of the policy."""
    if str(choices[0][0]) == "NEGATE":
        return "z"
    name, value = choose.choice(choices)
    if str(name) == "RANGE":
        return chr(choose.randint(*value))
    return chr(value) if str(name) == "LITERAL" else "7"


def rules(folder: Path) -> list[tuple[str, str]]:
    """Patterns with the file type for which each is, if any."""
    found = []
    for file in sorted(folder.glob("file_contexts*")):
        for line in file.read_text().splitlines():
            words = line.split()
            if not line.startswith("#") and words and "subs" not in file.name:
                found.append((words[0], words[1] if len(words) == 3 else ""))
    return found


def asked(folder: Path) -> Iterator[tuple[str, str]]:
    """Paths that rules match and similar paths, each with a file type."""
    choose = random.Random(25)
    for pattern, kind in sample(rules(folder), 200):
        parsed = _parser.parse(pattern)
        for _ in range(rounds(1, 3)):
            path = re.sub("//+", "/", example(parsed, choose)).rstrip("/") or "/"
            kinds = [kind or choose.choice(list(KINDS)), choose.choice(list(KINDS))]
            near = choose.choice([f"{path}x", f"{path}/x", path.rpartition("/")[0] or "/"])
            for name in (path, near, f"/persistent{path}".rstrip("/")):
                yield from ((name, one) for one in kinds)
    for top in ("/persistent", "/persistent/etc", "/persistentx", "/srv/old/y", "/srv/old"):
        yield from ((top, kind) for kind in KINDS)


def matchpathcon(folder: Path, kind: str, names: list[str]) -> list[str | None]:
    said = subprocess.run(
        ["matchpathcon", "-m", KINDS[kind][0], "-f", folder / "file_contexts", *names],
        capture_output=True, text=True,
    )  # fmt: skip
    found = dict(line.split("\t") for line in said.stdout.splitlines())
    return [None if found.get(name) in (None, "<<none>>") else found[name] for name in names]


def test_both_agree_with_matchpathcon(folder: Path) -> None:
    library = LibSelinux(folder / "file_contexts")
    texts = [folder / f"file_contexts{name}" for name in ("", ".homedirs", ".local")]
    reader = FileContexts(
        (path.read_bytes() for path in texts),
        (folder / "file_contexts.subs_dist").read_bytes(),
        LOCAL.encode(),
    )
    cases: dict[str, list[str]] = {}
    for name, kind in asked(folder):
        cases.setdefault(kind, []).append(name)
    different, labelled = [], 0
    for kind, names in cases.items():
        for start in range(0, len(names), 500):
            part = names[start : start + 500]
            for name, wanted in zip(part, matchpathcon(folder, kind, part), strict=True):
                labelled += wanted is not None
                mode = KINDS[kind][1]
                got = (library.look_up(name, mode), reader.look_up(name, mode))
                if got != (wanted, wanted):
                    different.append((name, kind, wanted, got))
    assert different == []
    assert labelled > 500
