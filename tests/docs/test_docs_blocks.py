"""Every block of code in a document is true: it is executed, read, or marked as an illustration.

The words after the opening fence say what a block is:

    sh                 commands that the test in `EXECUTED` runs
    sh illustration    commands that no test runs; the program's own are parsed anyway
    toml               a configuration, or tables of one; with `drop-in` or `home`, that file
    text               what a program prints, or another file
    python, nix        tested with its document
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from checkout import CHECKOUT
from ephemeroot import cli
from ephemeroot.cli import arguments
from ephemeroot.home import reader
from ephemeroot.home.user import User
from machine_tree import DEVICE, ROOT, STORE, VOLUME, MachineTree

DOCUMENTS = sorted([*CHECKOUT.glob("docs/*.md"), *CHECKOUT.glob("*.md")])

EXECUTED = {
    "converting-arch.md": "tests/docs/test_tutorials.py",
    "converting-debian.md": "vm-tests/test_conversion.py",
    "converting-fedora.md": "tests/docs/test_tutorials.py",
    "converting-opensuse.md": "tests/docs/test_tutorials.py",
    "plug-ins.md": "tests/image/test_plug_in.py",
}
"""The test that runs the blocks of each document that are not marked as illustrations."""

KINDS = {
    "sh", "sh illustration", "toml", "toml drop-in", "toml home", "text", "python", "nix",
}  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A block of code in a document."""

    kind: str
    text: str
    place: str


def blocks(document: Path) -> Iterator[Block]:
    """The fenced blocks of a document."""
    kind, first, lines = None, 0, list[str]()
    for number, line in enumerate(document.read_text().splitlines(), 1):
        if not line.startswith("```"):
            lines.append(line)
        elif kind is None:
            kind, first, lines = line[3:], number, []
        else:
            yield Block(kind, "".join(f"{text}\n" for text in lines), f"{document.name}:{first}")
            kind = None


def indented(text: str) -> list[str]:
    """The first lines of blocks that only their indentation marks."""
    plain = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    paragraphs = [part for part in re.split(r"\n\s*\n", plain) if part.strip()]
    found = []
    for before, part in zip(["", *paragraphs], paragraphs, strict=False):
        in_list = re.match(r"\s*(?:[-*]|\d+\.) |    ", before)
        if part.startswith("    ") and not in_list:
            found.append(part.strip().splitlines()[0])
    return found


ALL = [block for document in DOCUMENTS for block in blocks(document)]
COMMANDS = [
    (block.place, line)
    for block in ALL
    if block.kind.startswith("sh")
    for line in block.text.splitlines()
    if re.match(r"(?:sudo )?ephemeroot ", line)
]


def test_the_documents_have_blocks() -> None:
    assert {block.kind for block in ALL} == KINDS
    assert len(COMMANDS) > 50


@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if d.parent != CHECKOUT], ids=lambda path: path.name
)
def test_every_block_has_a_type(document: Path) -> None:
    assert {block.kind for block in blocks(document)} <= KINDS
    assert indented(document.read_text()) == []


def test_finds_a_block_without_a_fence() -> None:
    assert indented("Do this:\n\n    reboot\n\nThen wait.\n") == ["reboot"]
    assert indented("- an item\n\n    of two paragraphs\n\n```sh\nx\n\n    y\n```\n") == []


def test_commands_that_are_not_illustrations_are_executed() -> None:
    unmarked = {block.place.partition(":")[0] for block in ALL if block.kind == "sh"}
    assert unmarked == set(EXECUTED) - {"plug-ins.md"}
    for document, test in EXECUTED.items():
        assert f"docs/{document}" in (CHECKOUT / test).read_text()


@pytest.mark.parametrize(("place", "line"), COMMANDS, ids=lambda value: value)
def test_the_program_parses_the_commands(place: str, line: str) -> None:
    # Text after two spaces explains the line.
    command = re.split(r" {2,}| +#| *[>|] ?", line.removeprefix("sudo "))[0]
    words = shlex.split(command)[1:]
    arguments.parser(cli.VERBS).parse_args(words)


CONFIGURATIONS = [
    block for block in ALL if block.kind == "toml" and not block.place.startswith("plug-ins.md")
]


@pytest.mark.parametrize("block", CONFIGURATIONS, ids=lambda block: block.place)
def test_configurations_are_valid(block: Block, tmp_path: Path) -> None:
    """The tables that the block leaves out (the root, a volume, a store, those of its document) are
    added, on a machine whose root is on btrfs or on ext4.
    """
    others = [b.text for b in CONFIGURATIONS if b.place.split(":")[0] == block.place.split(":")[0]]
    wiper = re.search(r"^\[root\.(\w+)\]", block.text, re.MULTILINE)
    roots = ["", ROOT, f'[root]\nwiper = "{wiper[1] if wiper else "tmpfs"}"\n']
    found = []
    for number, rest in enumerate(
        root + more + block.text + volume + store
        for more in ("", *(text for text in others if text != block.text))
        for root in roots
        for volume in ("", VOLUME)
        for store in ("", STORE)
    ):
        tree = MachineTree(tmp_path / str(number), rest)
        if not (errors := tree.errors()):
            return
        tree.write("etc/fstab", f"{DEVICE} / ext4 defaults 0 1\n")
        if not tree.errors():
            return
        found.append(errors)
    raise AssertionError([str(error) for error in min(found, key=len)])


@pytest.mark.parametrize(
    "block", [b for b in ALL if b.kind == "toml drop-in"], ids=lambda block: block.place
)
def test_drop_ins_are_valid(block: Block, tmp_path: Path) -> None:
    tree = MachineTree(tmp_path)
    tree.write("etc/ephemeroot/conf.d/10-more.toml", block.text)
    assert tree.errors() == []


@pytest.mark.parametrize(
    "block", [b for b in ALL if b.kind == "toml home"], ids=lambda block: block.place
)
def test_configurations_of_homes_are_valid(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "home.toml"
    file.write_text(block.text)
    assert reader.read(User.current({"HOME": str(tmp_path)}), str(file)).entries
