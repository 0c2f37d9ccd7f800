"""Declared paths inside declared directories: files written in one boot exist in the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from nested_machine import INNER, OUTER, Cell, NestedMachine, nested_machine, pairwise, table
from proof import is_whole

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]

CELLS = [
    replace(cell, number=number)
    for number, cell in enumerate(table() if is_whole() else pairwise())
]


def is_refused(cell: Cell) -> bool:
    """Declarations that ``check`` must refuse."""
    return cell.outer == "symlink"


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory, private_mounts: None) -> Iterator[NestedMachine]:
    cells = [cell for cell in CELLS if not is_refused(cell)]
    with nested_machine(tmp_path_factory.mktemp("nested"), cells) as machine:
        try:
            machine.live()
            yield machine
        finally:
            machine.unmount()


@pytest.mark.parametrize("inner", INNER, ids=" ".join)
@pytest.mark.parametrize("outer", [outer for outer in OUTER if outer != "symlink"])
def test_files_written_in_one_boot_exist_in_the_next_five(
    life: NestedMachine, outer: str, inner: tuple[str, str]
) -> None:
    cells = [c for c in life.cells if c.outer == outer and (c.kind, c.inner) == inner]
    assert cells
    wrong = [f"{cell}: {text}" for cell in cells for text in life.problems[cell.number]]
    assert not wrong, "\n".join(wrong)


def test_check_refuses_what_cannot_persist_and_says_why(life: NestedMachine) -> None:
    for cell in CELLS:
        reasons = [problem.reason for problem in life.refusals(cell)]
        assert bool(reasons) == is_refused(cell), (cell, reasons)
        assert all(cell.outer_path in reason for reason in reasons), reasons
