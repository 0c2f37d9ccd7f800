"""The documents name existing files and verbs, their links resolve, and every option of similar
projects is translated.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from checkout import CHECKOUT
from ephemeroot import cli
from ephemeroot.config import plugins
from ephemeroot.config.syntax import settings
from ephemeroot.config.syntax.settings import Listed, Named, Table
from ephemeroot.home import settings as home_settings

DOCUMENTS = sorted([*CHECKOUT.glob("docs/*.md"), CHECKOUT / "README.md"])
LINKING = sorted(
    [*DOCUMENTS, *(CHECKOUT / f"{n}.md" for n in ("CHANGELOG", "CONTRIBUTING", "SECURITY"))]
)

# The options of each module, as of 2026, without those that are marked internal and cannot be set.
OPTIONS = {
    "impermanence, the NixOS module": (
        "persistentStoragePath", "enable", "hideMounts", "allowTrash", "directories", "files",
        "users", "home", "enableWarnings", "enableDebugging", "directory", "file", "user", "group",
        "mode", "parentDirectory", "hideMount", "method",
    ),
    "impermanence, the module for home-manager": (
        "persistentStoragePath", "enable", "directories", "files", "directory", "method",
        "defaultDirectoryMethod", "allowOther", "removePrefixDirectory",
    ),
    "preservation": (
        "enable", "preserveAt", "persistentStoragePath", "directories", "files", "users",
        "username", "home", "commonMountOptions", "directory", "file", "how", "user", "group",
        "mode", "configureParent", "parent.user", "parent.group", "parent.mode", "mountOptions",
        "createLinkTarget", "inInitrd",
    ),
}  # fmt: skip


def section(document: str, heading: str) -> str:
    text = (CHECKOUT / "docs" / document).read_text()
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of all tables' rows."""
    found = re.findall(r"^\|(?!-)(.+)\|$", text, re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")] for row in found]


def keys(table: Table) -> set[str]:
    found = set(table.names())
    for setting in table.settings:
        if isinstance(setting.kind, Table):
            found |= keys(setting.kind)
        elif isinstance(setting.kind, Listed | Named):
            found |= keys(setting.kind.table)
    return found


@pytest.mark.parametrize("heading", OPTIONS)
def test_every_option_of_similar_projects_is_translated(heading: str) -> None:
    theirs = " ".join(row[0] for row in rows(section("impermanence.md", heading)))
    words = set(re.findall(r"[A-Za-z]+(?:\.(?:user|group|mode))?", theirs))
    assert set(OPTIONS[heading]) <= words


@pytest.mark.parametrize("heading", OPTIONS)
def test_translations_name_existing_keys(heading: str) -> None:
    known = keys(settings.TOP) | keys(plugins.VOLUME_WITH_WIPE) | keys(home_settings.TOP)
    values = {"auto", "bind", "symlink", "copy", "bindfs"}
    told = [row[1] for row in rows(section("impermanence.md", heading)) if row[1] != "here"]
    assert told
    for cell in told:
        named = set(re.findall(r"`([a-z-]+)`", cell))
        assert named <= known | values, cell
        assert named or cell == "–" or cell.startswith("`[persistence."), cell


def test_both_examples_of_the_document_say_the_same() -> None:
    text = (CHECKOUT / "docs/impermanence.md").read_text()
    there, here = re.findall(r"```(?:nix|toml)\n(.*?)```", text, re.DOTALL)
    # TOML quotes names of files and modes as Nix does, and repeats the table of the store.
    assert sorted(quoted(there)) == sorted(quoted(here.replace('[persistence."/persistent".', "")))


def quoted(text: str) -> list[str]:
    return re.findall(r'"([^"]+)"', text)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_verbs_named_in_the_text_exist(document: Path) -> None:
    inline = re.findall(r"`ephemeroot (?:--root \S+ )?([a-z-]+)", document.read_text())
    assert set(inline) <= set(cli.VERBS)


def prose(document: Path) -> str:
    """The document without its blocks of code."""
    text = re.sub(r"^(```+).*?^\1$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE)


def anchors(document: Path) -> set[str]:
    """The anchors of its headings, as made by code hosting sites and by the documentation site."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", LINKING, ids=lambda path: path.name)
def test_links_and_anchors_resolve(document: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]+))?\)", document.read_text()):
        if "://" in target:
            continue
        path = document.parent / target if target else document
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), f"{target}#{anchor}"


def test_finds_a_link_to_an_anchor_that_is_missing(tmp_path: Path) -> None:
    document = tmp_path / "a.md"
    document.write_text(
        "# One\n\n## Two: 3, four\n\n    # no heading\n\n```sh\n# no heading here\n```\n"
    )
    assert anchors(document) == {"one", "two-3-four"}


# The first components of paths in the checkout; NAME is a placeholder for a new name.
FOLDERS = {path.name for path in CHECKOUT.iterdir() if path.is_dir()}
PYTHON = ("ephemeroot", "hooks", "wipers", "tests", "vm-tests", "tools")


def named_files(document: Path) -> set[str]:
    """The paths in the checkout, and the names of Python files, that *document* mentions."""
    found = set()
    for quoted_ in re.findall(r"`([^`\n]+)`", prose(document)):
        for word in quoted_.split():
            name = word.partition("::")[0].rstrip(".,;")
            if re.fullmatch(r"[\w.-]+(/[\w.*-]+)*/?", name) and "NAME" not in name:
                first, slash, _ = name.partition("/")
                if (slash and first in FOLDERS) or name.endswith(".py"):
                    found.add(name)
    return found


def exists(name: str) -> bool:
    """A path in the checkout, or in one of the packages; a Python file may be named by the end of
    its path.
    """
    places = ["", "ephemeroot/", "hooks/", "wipers/"]
    if name.endswith(".py"):
        places += [f"{folder}/**/" for folder in PYTHON]
    return any(any(CHECKOUT.glob(f"{place}{name.rstrip('/')}")) for place in places)


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "docs/design.md", "docs/testing.md"])
def test_files_named_in_a_document_exist(document: str) -> None:
    names = named_files(CHECKOUT / document)
    assert len(names) > 10
    assert {name for name in names if not exists(name)} == set()


def test_finds_a_file_that_does_not_exist(tmp_path: Path) -> None:
    (tmp_path / "x.md").write_text("`tests/docs/test_docs.py`, `kinds.py`, `hooks/twins.py`\n")
    names = named_files(tmp_path / "x.md")
    assert {name for name in names if not exists(name)} == {"hooks/twins.py"}


def test_the_readme_links_to_all_documents() -> None:
    led = set(re.findall(r"\(docs/([a-z-]+\.md)\)", (CHECKOUT / "README.md").read_text()))
    assert led == {path.name for path in CHECKOUT.glob("docs/*.md")}


def test_the_index_links_to_all_documents() -> None:
    index = CHECKOUT / "docs/index.md"
    led = set(re.findall(r"(?<!!)\[[^]]+\]\(([^)#]+)\)", index.read_text()))
    pages = {path.name for path in CHECKOUT.glob("docs/*.md") if path != index}
    manual = {f"../man/{path.name}" for path in CHECKOUT.glob("man/*")}
    others = {f"../{path.name}" for path in LINKING if path.parent == CHECKOUT}
    assert led == pages | manual | others - {"../README.md"}
