"""The boot code in one file, which the boot reads at once instead of a hundred small files.

It contains the modules of the program and of the standard library. Modules of other projects stay
files, because they may look for files beside themselves, as do extension modules. ``entry`` reads
the bundle.
"""

from __future__ import annotations
import __future__

import ast
import marshal
from dataclasses import dataclass
from importlib.util import MAGIC_NUMBER, source_hash
from pathlib import Path
from types import CodeType

from ephemeroot.errors import Damaged
from ephemeroot.image import entry
from ephemeroot.image.broken import Broken
from ephemeroot.image.closure import is_own
from ephemeroot.linux import documents

# Without docstrings and assertions, as with `python3 -OO`: docstrings are a large part of the code.
_BARE = 2


@dataclass(frozen=True)
class Source:
    """A module for the bundle: its source, and the name of the file that tracebacks show."""

    name: str
    source: Path
    file: str
    package: bool


def pack(sources: list[Source], plan: bytes) -> bytes:
    """The bundle with *sources* and the valid *plan*; equal input gives equal bytes.

    Raises ``Broken`` if a source cannot be compiled, ``OSError``.
    """
    index = {}
    code = bytearray()
    for module in sorted(sources, key=lambda source: source.name):
        start = len(code)
        code += compiled(module)
        index[module.name] = (module.file, module.package, start, len(code))
    start = len(code)
    code += marshal.dumps(documents.parse(plan))
    described = marshal.dumps((index, (entry.identity(plan), start, len(code))))
    content = len(described).to_bytes(4, "little") + described + code
    return entry.MAGIC + MAGIC_NUMBER + entry.checksum(content) + content


def byte_code(source: Source) -> bytes:
    """The content of a ``.pyc`` file for *source* that is never compared with it (PEP 552).

    Raises ``Broken``, ``OSError``.
    """
    unchecked = (1).to_bytes(4, "little")
    return MAGIC_NUMBER + unchecked + source_hash(source.source.read_bytes()) + compiled(source)


def compiled(source: Source) -> bytes:
    """The marshalled code of *source*. Raises ``Broken``, ``OSError``."""
    try:
        tree = ast.parse(source.source.read_bytes(), source.file)
        flags = _without_annotations(tree) if is_own(source.name) else 0
        code = compile(tree, source.file, "exec", flags, dont_inherit=True, optimize=_BARE)
    except (SyntaxError, ValueError) as error:
        raise Broken(f"cannot compile the module {source.name}: {error}") from None
    return marshal.dumps(without_columns(code))


# Kinds of entries of a location table, and the bit with which each begins
# (CPython, Objects/locations.md; since Python 3.11).
_FIRST, _ONLY_LINE, _NOTHING = 0x80, 13, 15


def without_columns(code: CodeType) -> CodeType:
    """*code* without column numbers, which only underline the failed expression in a traceback: a
    twelfth of the bytes.
    """
    table = bytearray()
    before = code.co_firstlineno
    for start, end, line in code.co_lines():
        units = (end - start) // 2
        while units > 0:
            length = min(units, 8)
            units -= length
            kind = _NOTHING if line is None else _ONLY_LINE
            table.append(_FIRST | kind << 3 | length - 1)
            if line is not None:
                table += _signed(line - before)
                before = line
    constants = (without_columns(c) if isinstance(c, CodeType) else c for c in code.co_consts)
    return code.replace(co_linetable=bytes(table), co_consts=tuple(constants))


def _signed(number: int) -> bytes:
    """*number* in groups of six bits, the lowest first, its sign in the lowest bit."""
    left = -number << 1 | 1 if number < 0 else number << 1
    found = bytearray()
    while left > 63:
        found.append(64 | left & 63)
        left >>= 6
    found.append(left)
    return bytes(found)


def _without_annotations(tree: ast.Module) -> int:
    """Remove annotations from *tree*; returns the flags for ``compile``.

    Annotations would be evaluated and stored at each start. The import of ``__future__`` goes, too:
    it would need that module at boot.
    """
    _Bare().visit(tree)
    return __future__.annotations.compiler_flag


class _Bare(ast.NodeTransformer):
    """Removes annotations, and the import that makes them text."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        return None if node.module == "__future__" else node

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return node.orelse or ast.copy_location(ast.Pass(), node)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.returns = None
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(ast.Assign([node.target], node.value), node)


def require_sound(content: bytes, name: str) -> None:
    """Raise ``Damaged`` unless *content*, of the file *name*, is a whole bundle."""
    try:
        entry.require_sound(content)
    except entry.BundleError as error:
        raise Damaged(f"{name} is damaged: {error}") from None
