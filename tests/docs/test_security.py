"""SECURITY.md: who links to it, and that each promise names an existing test."""

from __future__ import annotations

import ast
import re

import pytest

from checkout import CHECKOUT

TEXT = (CHECKOUT / "SECURITY.md").read_text(encoding="utf-8")
PROMISED = TEXT.partition("## Promises")[2].partition("## Limits of the promises")[0]
REFERENCE = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def promises() -> list[str]:
    return [
        " ".join(item.split())
        for section in PROMISED.split("\n### ")
        for item in re.split(r"^- ", section, flags=re.MULTILINE)[1:]
    ]


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_is_linked(document: str) -> None:
    assert "(SECURITY.md)" in (CHECKOUT / document).read_text(encoding="utf-8")


def test_names_the_attackers() -> None:
    sections = re.findall(r"^### (.+)$", PROMISED, flags=re.MULTILINE)
    assert sections == [
        "Against mistakes of the administrator",
        "Against a local user",
        "Against a hostile store",
        "Against a hostile base",
    ]
    assert len(promises()) > 15


@pytest.mark.parametrize("promise", promises())
def test_each_promise_names_an_existing_test(promise: str) -> None:
    named = REFERENCE.findall(promise)
    assert named, promise
    for path, name in named:
        tree = ast.parse((CHECKOUT / path).read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in functions, f"{path}::{name}"


def test_refers_to_the_limits_where_they_are() -> None:
    assert "(docs/persistence.md#limits)" in TEXT
    assert "\n## Limits\n" in (CHECKOUT / "docs/persistence.md").read_text(encoding="utf-8")
