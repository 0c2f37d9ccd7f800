"""The table of `verb_cases` has every verb of the parser."""

from __future__ import annotations

import pytest

from verb_cases import CASES, verbs

pytestmark = pytest.mark.requires_loop


def test_every_verb_of_the_parser_has_a_case() -> None:
    assert sorted({case.verb for case in CASES}) == verbs()


def test_every_case_has_a_name_of_its_own() -> None:
    assert len({case.id for case in CASES}) == len(CASES)
