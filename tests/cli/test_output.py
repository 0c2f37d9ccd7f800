"""The output of every verb for programs has one implementation: the JSON envelope, ``--json``, exit
codes.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from ephemeroot import cli
from ephemeroot.cli import output

FOLDER = Path(cli.__file__).parent
VERBS = sorted(set(FOLDER.rglob("*.py")) - {Path(output.__file__)})

EXIT_CODES = {name: value for name, value in vars(output).items() if type(value) is int}
NOT_DONE = set(EXIT_CODES.values()) - {output.DONE}


def retyped(source: str) -> list[str]:
    """Declarations in *source* that belong in ``output``."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Dict(keys=keys) if "format" in map(_text, keys):
                found.append("an envelope")
            case ast.Import(names=names) if "json" in [name.name for name in names]:
                found.append("import json")
            case ast.Call(func=ast.Attribute(attr="add_argument"), args=[word, *_]):
                found += ["--json"] * (_text(word) == "--json")
            case ast.Return(value=value) if value is not None:
                found += [
                    f"return {code}"
                    for code in sorted(_codes(value) & set(EXIT_CODES.values()) - {0})
                ]
            case ast.Assign(value=ast.Constant(value=10 | 130), targets=[ast.Name(id=name)]):
                found += [name] * (name.strip("_") in EXIT_CODES)
    return found


def _text(node: ast.AST | None) -> object:
    return node.value if isinstance(node, ast.Constant) else None


def _codes(value: ast.expr) -> set[int]:
    """The numbers that a function returns literally."""
    if isinstance(value, ast.IfExp):
        return _codes(value.body) | _codes(value.orelse)
    is_number = isinstance(value, ast.Constant) and type(value.value) is int
    return {int(value.value)} if is_number else set()  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", VERBS, ids=lambda path: str(path.relative_to(FOLDER)))
def test_no_verb_has_its_own_envelope_or_exit_code(module: Path) -> None:
    assert retyped(module.read_text()) == []


def test_finds_repeated_declarations() -> None:
    source = """
import json
PARTLY = 10
def run(arguments):
    parser.add_argument("--json")
    print(json.dumps({"format": "ephemeroot-x", "version": 1}))
    return PARTLY if arguments else 1
"""
    assert sorted(retyped(source)) == [
        "--json", "PARTLY", "an envelope", "import json", "return 1"
    ]  # fmt: skip


def test_a_document_begins_with_its_format_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json("verb-action", {"found": ["ä"]})
    text = capsys.readouterr().out
    assert json.loads(text) == {
        "format": "ephemeroot-verb-action", "version": 1, "found": ["ä"]
    }  # fmt: skip
    assert list(json.loads(text))[:2] == ["format", "version"]
    assert text.isascii()
    assert text.endswith("}\n")
