"""What the site adds to the documents: its navigation, and links from names of manual pages.

The documents stay plain Markdown that can be read where they are kept. The navigation is the index:
each of its sections becomes a part of it, with the pages to which that section links.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import reference

if TYPE_CHECKING:
    from sphinx.application import Sphinx

INDEX = "docs/index"

_LINK = re.compile(r"\[([^]]+)\]\(([^):#]+)\.md\)")
# The source of a manual page, which the site has as a page of its own.
_MANUAL = re.compile(r"\]\(\.\./man/([^)]+)\)")
_PAGE = re.compile(r"\b(ephemeroot(?:\.toml|-boot)?)\(([578])\)")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", _add_navigation)
    app.connect("doctree-read", _link_manual)
    app.connect("html-page-context", _inline_pictures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _add_navigation(_: Sphinx, document: str, source: list[str]) -> None:
    source[0] = _MANUAL.sub(r"](man/\1.md)", source[0])
    if reference.MARK in source[0]:
        source[0] = source[0].replace(reference.MARK, reference.text())
    if document == INDEX:
        source[0] += "".join(trees(source[0]))


def trees(index: str) -> list[str]:
    """A hidden toctree for each section of the index that has links."""
    found = []
    for section in re.split(r"^## ", index, flags=re.MULTILINE)[1:]:
        if pages := _LINK.findall(section):
            title, _, _ = section.partition("\n")
            listed = "\n".join(f"{text} <{page}>" for text, page in pages)
            found.append(f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{listed}\n```\n")
    return found


def _link_manual(app: Sphinx, tree: Any) -> None:
    """Make links of `ephemeroot(8)` and the like in running text."""
    from docutils import nodes

    here = app.env.docname
    if here.startswith("docs/man/"):
        return
    for text in list(tree.findall(nodes.Text)):
        if isinstance(text.parent, nodes.reference | nodes.title | nodes.literal_block):
            continue
        parts = _PAGE.split(str(text))
        if len(parts) == 1:
            continue
        made: list[Any] = [nodes.Text(parts[0])]
        for name, section, rest in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
            target = app.builder.get_relative_uri(here, f"docs/man/{name}.{section}")
            link = nodes.reference("", f"{name}({section})", refuri=target, internal=True)
            made += [link, nodes.Text(rest)]
        text.parent.replace(text, made)


def _inline_pictures(
    app: Sphinx, _page: str, _template: str, context: dict[str, Any], _tree: Any
) -> None:
    """Put our drawings into the page, where they follow the reader's choice of light or dark."""

    def drawing(found: re.Match[str]) -> str:
        svg = (Path(app.srcdir) / "docs" / found[1]).read_text(encoding="utf-8")
        return f'<div class="picture">{svg}</div>' if 'class="picture"' in svg else found[0]

    if body := context.get("body"):
        pattern = r'<img [^>]*src="(?:\.\./)*_images/([a-z0-9-]+\.svg)"[^>]*>'
        context["body"] = re.sub(pattern, drawing, body)
