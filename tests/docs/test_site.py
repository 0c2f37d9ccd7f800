"""The documentation site (`make docs`), as far as it can be checked without its generator."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import manual
import navigation
import pictures
from checkout import CHECKOUT
from ephemeroot import cli
from ephemeroot.cli import arguments

PAGES = ("ephemeroot.8", "ephemeroot.toml.5", "ephemeroot-boot.7")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "man"
    manual.write(CHECKOUT / "man", folder)
    return folder


def test_every_page_of_the_index_is_in_the_navigation() -> None:
    index = (CHECKOUT / "docs/index.md").read_text()
    trees = navigation.trees(index)
    captions = [re.findall(r":caption: (.+)", tree) for tree in trees]
    assert captions == [["Tutorials"], ["How-to guides"], ["Reference"], ["Explanation"]]
    listed = {f"{page}.md" for tree in trees for page in re.findall(r"<(.+)>", tree)}
    shown = index.partition("## Tutorials")[2]
    assert listed == {page for page in re.findall(r"\]\((.+?)\)", shown) if page.endswith(".md")}


@pytest.mark.requires_program("mandoc")
@pytest.mark.parametrize("name", PAGES)
def test_a_manual_page_has_every_section_as_a_heading(pages: Path, name: str) -> None:
    text = (pages / f"{name}.md").read_text()
    headings = re.findall(r"^##+ (.+)$", text, re.MULTILINE)
    source = (CHECKOUT / "man" / name).read_text().replace("\\(dq", '"').replace("\\&", "")
    assert headings == re.findall(r"^\.S[hs] (.+)$", source, re.MULTILINE)
    assert text.count("````{raw} html\n") * 2 == text.count("````")


@pytest.mark.requires_program("mandoc")
@pytest.mark.parametrize("name", PAGES)
def test_links_between_manual_pages_resolve(pages: Path, name: str) -> None:
    text = (pages / f"{name}.md").read_text()
    links = re.findall(r'<a (?:class="(?:Sx|Xr)" )?href="([^"#]*)(?:#([^"]*))?"', text)
    assert {page for page, _ in links if page} <= {f"{page}.html" for page in PAGES}
    assert any(page for page, _ in links)
    for page, anchor in links:
        assert not anchor or anchor in sections(pages / (page.removesuffix(".html") or name))


@pytest.mark.requires_program("mandoc")
@pytest.mark.parametrize("name", PAGES)
def test_a_manual_page_can_be_read_without_the_site(pages: Path, name: str) -> None:
    text = (pages / f"{name}.html").read_text()
    assert manual.STYLE in text
    links = re.findall(r'href="([^"#]*)(?:#([^"]*))?"', text)
    assert len(links) > 10
    for page, anchor in links:
        there = (pages / (page or f"{name}.html")).read_text()
        assert not anchor or f'id="{anchor}"' in there, f"{page}#{anchor}"


def sections(page: Path) -> set[str]:
    text = page.with_name(f"{page.name}.md").read_text()
    return {manual.anchor(heading) for heading in re.findall(r"^##+ (.+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("name", pictures.ALL)
def test_pictures_match_their_tables(name: str) -> None:
    assert (CHECKOUT / "docs" / name).read_text() == pictures.ALL[name]().svg(), "run make docs"


@pytest.mark.parametrize("name", pictures.ALL)
def test_every_picture_is_in_a_document(name: str) -> None:
    assert any(f"]({name})" in path.read_text() for path in CHECKOUT.glob("docs/*.md"))


@pytest.mark.parametrize("name", pictures.ALL)
def test_text_in_a_picture_stays_inside_its_box(name: str) -> None:
    drawing = pictures.ALL[name]()
    for x, text in re.findall(r'<text x="([\d.]+)".*?>(.*)</text>', "\n".join(drawing.parts)):
        words = re.sub(r"<[^>]*>", "", text)
        assert float(x) + len(words) * 6.2 <= drawing.width, words


def test_commands_in_a_picture_are_valid() -> None:
    for _, _, rows in pictures.VERBS:
        for command, _ in rows:
            arguments.parser(cli.VERBS).parse_args(command.split())


def test_units_in_a_picture_exist() -> None:
    cells = {cell for _, _, texts in pictures.BOOT for cell in texts if "ephemeroot-" in cell}
    assert len(cells) == 2
    for cell in cells:
        unit, target = re.findall(r"`([a-z.-]+)`", cell)
        text = (CHECKOUT / "systemd" / unit).read_text()
        assert target in " ".join(re.findall(r"^Before=(.*)$", text, re.MULTILINE)).split()
