"""The documentation site (`make docs`), as far as it can be checked without its generator."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import manual
import navigation

CHECKOUT = Path(__file__).resolve().parent.parent
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
def test_links_between_manual_pages_lead_somewhere(pages: Path, name: str) -> None:
    text = (pages / f"{name}.md").read_text()
    links = re.findall(r'<a (?:class="(?:Sx|Xr)" )?href="([^"#]*)(?:#([^"]*))?"', text)
    assert {page for page, _ in links if page} <= {f"{page}.html" for page in PAGES}
    assert any(page for page, _ in links)
    for page, anchor in links:
        assert not anchor or anchor in sections(pages / (page.removesuffix(".html") or name))


def sections(page: Path) -> set[str]:
    text = page.with_name(f"{page.name}.md").read_text()
    return {manual.anchor(heading) for heading in re.findall(r"^##+ (.+)$", text, re.MULTILINE)}
