"""The manual is complete: every verb, option, key and word is on its page, and no others are."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import ephemeroot
from checkout import CHECKOUT
from ephemeroot import cli
from ephemeroot.cli import access, arguments, output
from ephemeroot.config import plugins
from ephemeroot.config.syntax import settings
from ephemeroot.config.syntax.settings import Listed, Named, Table
from ephemeroot.home import settings as home_settings
from ephemeroot.hooks import cmdline
from ephemeroot.hooks.plan import POLICIES
from ephemeroot.wipers.zfs import Zfs
from machine_tree import MachineTree
from verb_parsers import COMMANDS

MAN = CHECKOUT / "man"
PAGES = ("ephemeroot.8", "ephemeroot.toml.5", "ephemeroot-boot.7")

# The order of mdoc(7); other sections of a page follow the description.
ORDER = (
    "NAME", "SYNOPSIS", "DESCRIPTION", "ENVIRONMENT", "FILES", "EXIT STATUS", "EXAMPLES",
    "SEE ALSO", "CAVEATS",
)  # fmt: skip

# Options that every verb has, documented once.
COMMON = {"--config", "--root", "--json", "--help"}
ENTRY = "A directory, a file"
HOME_STORE = 'home.toml: [persistence."STORE"]'

# Pages of other packages, which may be missing here, and a style rule of BSD: on Linux the footer
# names the package.
_ELSEWHERE = (
    "referenced manual not found", "outdated mandoc.db", "operating system explicitly specified",
)  # fmt: skip


@cache
def page(name: str) -> str:
    """A page's source without formatting."""
    text = (MAN / name).read_text(encoding="utf-8").replace("\\(dq", '"')
    return text.replace("\\&", "").replace("\\-", "-")


@cache
def sections(name: str) -> dict[str, str]:
    """The text below each heading of a page, up to the next one."""
    parts = re.split(r"^\.S[hs] (.+)$", page(name), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def items(text: str, macro: str) -> set[str]:
    """The words marked with *macro* in the heads of a section's lists."""
    found: set[str] = set()
    for line in re.findall(r"^\.It (.+)$", text, re.MULTILINE):
        for run in re.findall(rf"(?:^|(?<= )){macro} ((?:(?![A-Z][a-z]\b)\S+ ?)+)", line):
            found |= {word for word in run.split() if word != ","}
    return found


def test_all_pages_are_listed() -> None:
    assert sorted(path.name for path in MAN.iterdir()) == sorted(PAGES)


@pytest.mark.requires_program("mandoc")
@pytest.mark.parametrize("name", PAGES)
def test_mandoc_reports_nothing(name: str) -> None:
    found = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "all", MAN / name], capture_output=True, text=True
    )
    lines = (found.stdout + found.stderr).splitlines()
    assert [line for line in lines if not any(word in line for word in _ELSEWHERE)] == []


@pytest.mark.parametrize("name", PAGES)
def test_sections_are_in_the_usual_order(name: str) -> None:
    found = re.findall(r"^\.Sh (.+)$", page(name), re.MULTILINE)
    usual = [heading for heading in ORDER if heading in found]
    own = [heading for heading in found if heading not in ORDER]
    begin = sum(heading in found for heading in ORDER[:3])
    assert found == [*usual[:begin], *own, *usual[begin:]]
    assert {"NAME", "DESCRIPTION", "EXAMPLES", "SEE ALSO"} <= set(found)


@pytest.mark.parametrize("name", PAGES)
def test_the_header_names_the_version_and_not_another_system(name: str) -> None:
    head = (MAN / name).read_text(encoding="utf-8").splitlines()[:4]
    title, _, number = name.rpartition(".")
    assert head[1:] == [
        '.ds doc-volume-operating-system "',
        f".Dt {title.upper()} {number}",
        f".Os Ephemeroot {ephemeroot.__version__}",
    ]


@pytest.mark.parametrize("name", PAGES)
def test_the_program_parses_the_commands_of_the_examples(name: str) -> None:
    lines = re.findall(r"^(?:\.Dl )?(ephemeroot .+)$", sections(name)["EXAMPLES"], re.MULTILINE)
    assert lines or name == "ephemeroot.toml.5"
    for line in lines:
        words = shlex.split(line.partition(" >")[0])[1:]
        arguments.parser(cli.VERBS).parse_args(words)


def test_the_kernel_command_line_of_the_examples_is_valid() -> None:
    words = re.findall(r"^\.Dl (ephemeroot\S*=.+)$", sections("ephemeroot-boot.7")["EXAMPLES"],
                       re.MULTILINE)  # fmt: skip
    assert len(words) >= 4
    for word in words:
        assert cmdline.CommandLine(word).problems() == []


@pytest.mark.parametrize("name", PAGES)
def test_links_to_own_pages_resolve(name: str) -> None:
    named = re.findall(r"^\.Xr (ephemeroot\S*) (\d)", page(name), re.MULTILINE)
    assert named
    assert {f"{title}.{number}" for title, number in named} <= set(PAGES)


# The page of the program.


def own_options(parser: argparse.ArgumentParser) -> set[str]:
    options = {name for action in parser._actions for name in action.option_strings}
    return {name for name in options if name.startswith("--")} - COMMON


def synopses(command: str) -> list[str]:
    """The lines that show how the command is called."""
    lines = re.findall(r"^\.D1 Nm Cm (.+)$", page("ephemeroot.8"), re.MULTILINE)
    return [line for line in lines if f"{line} ".startswith(f"{command} ")]


def test_the_parser_has_verbs() -> None:
    assert {"check", "apply", "roots list", "home apply", "image"} <= COMMANDS.keys()


def test_every_verb_has_a_section() -> None:
    headings = set(sections("ephemeroot.8"))
    assert {verb for verb, _ in COMMANDS.values()} <= headings


@pytest.mark.parametrize("command", COMMANDS)
def test_a_commands_options_are_in_its_synopsis(command: str) -> None:
    verb, parser = COMMANDS[command]
    shown = synopses(command)
    assert shown, f"no line `.D1 Nm Cm {command}`"
    assert {line in sections("ephemeroot.8")[verb] for line in shown} == {True}
    told = {f"-{name}" for line in shown for name in re.findall(r"Fl (-[a-z-]+)", line)}
    assert told == own_options(parser)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_commands_options_are_explained(command: str) -> None:
    verb, parser = COMMANDS[command]
    explained = items(sections("ephemeroot.8")[verb], "Fl")
    assert own_options(parser) <= {f"-{name}" for name in explained}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_manual_names_the_files_that_a_command_opens_for_writing(command: str) -> None:
    verb, parser = COMMANDS[command]
    text = sections("ephemeroot.8")[verb]
    if action := command.removeprefix(verb).strip():
        text = text.partition(f".It Cm {action}\n")[2]
        text = re.split(r"^\.(?:It|El)", text, flags=re.MULTILINE)[0]
    told = re.findall(r"Opens for writing: (.+?)\.(?: |$)", " ".join(text.split()))
    assert told == [parser.get_default("writes")]


def test_verbs_that_write_nothing_are_not_in_the_matrix() -> None:
    matrix = sections("ephemeroot.8")["WHAT EACH VERB CREATES AND DELETES"]
    rows = set(re.findall(r"^\.It Cm ([a-z -]+?) Ta ", matrix, re.MULTILINE))
    writing = {c for c, (_, p) in COMMANDS.items() if p.get_default("writes") != access.NOTHING}
    # A rehearsal leaves nothing behind, and a mount does not change a filesystem.
    assert writing - {"rehearse"} == rows - {"roots mount"}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_actions_of_a_command_are_in_its_synopsis(command: str) -> None:
    _, parser = COMMANDS[command]
    words = {
        str(choice)
        for action in parser._actions
        if not action.option_strings and action.choices
        for choice in action.choices
    }
    shown = {word for line in synopses(command) for word in line.split()}
    assert words <= shown


def test_every_synopsis_is_of_an_existing_command() -> None:
    lines = re.findall(r"^\.D1 Nm Cm (.+)$", page("ephemeroot.8"), re.MULTILINE)
    shown = {line for command in COMMANDS for line in synopses(command)}
    assert set(lines) - shown == set()


def test_every_verb_that_changes_something_is_in_the_matrix() -> None:
    matrix = sections("ephemeroot.8")["WHAT EACH VERB CREATES AND DELETES"]
    rows = set(re.findall(r"^\.It Cm ([a-z -]+?) Ta ", matrix, re.MULTILINE))
    changing = {
        command for command, (_, parser) in COMMANDS.items() if "--dry-run" in own_options(parser)
    }
    assert {"apply", "roots prune"} <= changing
    # Verbs that units and generators call need no dry run, as they have no user.
    own = {"boot-complete", "copyback", "image", "package-change"}
    assert rows - changing == own <= set(cli.PLUMBING)
    assert changing <= rows <= COMMANDS.keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_can_print_json(command: str) -> None:
    _, parser = COMMANDS[command]
    assert "--json" in parser._option_string_actions


def test_the_matrix_has_no_empty_cell() -> None:
    matrix = sections("ephemeroot.8")["WHAT EACH VERB CREATES AND DELETES"]
    heading, *rows = re.findall(r"^\.It .*Ta .*$", matrix, re.MULTILINE)
    assert {row.count(" Ta ") for row in rows} == {heading.count(" Ta ")}
    cells = {cell for row in rows for cell in row.split(" Ta ")[1:]}
    assert cells <= {"-", "c", "r", "d", "c r", "c d", "r d", "c r d"}


def test_every_exit_code_is_documented() -> None:
    told = set(re.findall(r"^\.It (\d+)$", sections("ephemeroot.8")["EXIT STATUS"], re.MULTILINE))
    assert told == {"0", "1", "2", "3", "10", str(output.INTERRUPTED)}


# The page of the configuration.


def tables() -> Iterator[tuple[str, Table]]:
    """Every table of the configuration, under the heading where its keys are explained."""
    yield "Top level", settings.TOP
    yield "[root]", settings.ROOT
    yield "[match]", settings.MATCH
    for name in plugins.names():
        if plugins.find(name).attribute.startswith("ephemeroot."):
            yield f"[root.{name}]", plugins.find(name).root_table()
    yield from _below("", settings.TOP)
    yield "[[volumes]]", plugins.VOLUME_WITH_WIPE
    yield HOME_STORE, home_settings.STORE


def _below(path: str, table: Table) -> Iterator[tuple[str, Table]]:
    for setting in table.settings:
        kind, name = setting.kind, f"{path}.{setting.name}".lstrip(".")
        if isinstance(kind, Table):
            yield f"[{name}]", kind
            yield from _below(name, kind)
        elif isinstance(kind, Named):
            one = "NAME" if path else '"STORE"'
            yield f"[{name}.{one}]", kind.table
            yield from _below(f"{name}.{one}", kind.table)
        elif isinstance(kind, Listed):
            yield (ENTRY if kind.short else f"[[{name}]]"), kind.table


TABLES = list(tables())


def keys(heading: str) -> set[str]:
    """Every key that the heading must explain."""
    known: set[str] = set()
    for where, table in TABLES:
        if where == heading:
            known |= set(table.names())
    return known | ({"root", "match"} if heading == "Top level" else set())


@pytest.mark.parametrize("heading", sorted({heading for heading, _ in TABLES}))
def test_every_key_is_explained(heading: str) -> None:
    explained = items(sections("ephemeroot.toml.5")[heading], "Ic")
    assert explained == keys(heading)


def test_inner_tables_of_entries_are_explained() -> None:
    text = sections("ephemeroot.toml.5")[ENTRY]
    parent = text.partition(".It Ic parent-directory\n")[2].partition(".It")[0]
    assert set(re.findall(r"[a-z-]+", parent)) >= set(settings.PARENT.names())
    home = sections("ephemeroot.toml.5")[HOME_STORE]
    for name in (*home_settings.DIRECTORY.names(), *home_settings.FILE.names()):
        assert f".Ic {name}\n" in home or f".Ic {name} .\n" in home


@pytest.mark.parametrize("kind", ["wipe", "store", "path"])
def test_every_policy_of_the_configuration_is_documented(kind: str) -> None:
    text = sections("ephemeroot.toml.5")["[on-failure]"]
    told = text.partition(f".It Ic {kind}\n")[2].partition(".It")[0]
    assert set(POLICIES[kind]) <= set(re.findall(r"[a-z]+", told))


def test_the_example_of_the_page_is_valid(tmp_path: Path) -> None:
    (block,) = re.findall(r"^\.Bd -literal.*?\n(.*?)\.Ed$", page("ephemeroot.toml.5"),
                          re.MULTILINE | re.DOTALL)  # fmt: skip
    tree = MachineTree(tmp_path, block)
    assert tree.problems() == []


# The page of the boot.


def test_every_word_of_the_kernel_command_line_is_explained() -> None:
    explained = items(sections("ephemeroot-boot.7")["KERNEL COMMAND LINE"], "Cm")
    words = {word.partition("=")[0] for word in explained}
    assert words == {*cmdline._OURS, "noresume", *Zfs.KEPT_BY}


def test_every_policy_and_boolean_is_documented() -> None:
    text = sections("ephemeroot-boot.7")["KERNEL COMMAND LINE"]
    told = set(re.findall(r"[a-z0-9]+", text))
    assert set(cmdline.POLICIES) <= told
    assert {*cmdline.TRUE, *cmdline.FALSE} <= told
    assert set(cmdline.POLICIES) <= items(sections("ephemeroot-boot.7")["FAILURES"], "Cm")
