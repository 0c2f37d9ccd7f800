"""Each command in a hint of the ZFS code is run unchanged, by a case on a real pool.

`vm-tests/zfs_pools/hints.py` has the table of those hints with their cases. The hints are read from
the code, so that a new one without a case fails here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkout import CHECKOUT

POOLS = CHECKOUT / "vm-tests/zfs_pools"
CODE = sorted(
    [
        *(CHECKOUT / "wipers/zfs").glob("*.py"),
        *(CHECKOUT / "ephemeroot/backends/zfs").glob("*.py"),
        CHECKOUT / "ephemeroot/config/datasets.py",
        CHECKOUT / "ephemeroot/linux/dataset_keys.py",
    ]
)
ERRORS = ("Refused", "EphemerootError", "Mistake")
COMMAND = re.compile(r"(^|['(&] ?|\$\()(zfs|zpool|modprobe|umount|ephemeroot) |'\{\}'")


def texts(node: ast.expr) -> list[str]:
    """The texts that the expression of a hint can have, with {} for inserted values."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        return ["".join(texts(part)[0] if isinstance(part, ast.Constant) else "{}"
                        for part in node.values)]  # fmt: skip
    if isinstance(node, ast.IfExp):
        return [*texts(node.body), *texts(node.orelse)]
    return []


def hints(file: Path) -> Iterator[str]:
    """The second argument of each error in *file*, and the results of functions named for hints."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ERRORS:
                for argument in node.args[1:2]:
                    yield from texts(argument)
        elif isinstance(node, ast.FunctionDef) and (
            node.name.endswith("_hint") or node.name == "retained"
        ):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Return) and inner.value is not None:
                    yield from texts(inner.value)


def table() -> dict[str, str]:
    tree = ast.parse((POOLS / "hints.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "HINTS":
            assert node.value is not None
            found: dict[str, str] = ast.literal_eval(node.value)
            return found
    raise AssertionError


def test_the_table_has_exactly_the_commands_of_the_hints() -> None:
    found = {hint for file in CODE for hint in hints(file) if COMMAND.search(hint)}
    assert len(found) > 20
    assert found == set(table())


@pytest.mark.parametrize("where", sorted(set(table().values())))
def test_each_case_of_the_table_follows_a_hint(where: str) -> None:
    module, _, name = where.partition(".")
    tree = ast.parse((POOLS / f"{module}.py").read_text())
    (case,) = [node for node in tree.body
               if isinstance(node, ast.FunctionDef) and node.name == f"case_{name}"]  # fmt: skip
    calls = {ast.unparse(node.func) for node in ast.walk(case) if isinstance(node, ast.Call)}
    assert calls & {"follow", "follow_init", "call"}, where
