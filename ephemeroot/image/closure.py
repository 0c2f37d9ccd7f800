"""The Python modules that the boot code loads for a plan, found by loading them.

A child process (`tracer`) runs the imports in a bare interpreter. This module searches functions of
Ephemeroot's own modules for imports that only happen in a call, and the child runs again until
there is no new module.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ephemeroot
from ephemeroot.image import tracer
from ephemeroot.image.broken import Broken

OWN = "ephemeroot"
"""The package whose functions are searched for further imports."""

ENTRY = "ephemeroot.hooks.__main__"


ON_DEMAND = frozenset(("ephemeroot.linux.network",))
"""Large modules of Ephemeroot's that are packed only if the plan needs them."""


# The fields of a statement that contain statements (Python's grammar, the ast module's manual).
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


@dataclass(frozen=True)
class Module:
    """A module that the image needs as a file: ``kind`` is ``source`` or ``extension``."""

    name: str
    kind: str
    file: Path
    package: bool


@dataclass(frozen=True)
class Closure:
    """The parts of this Python installation that the boot code needs.

    ``program`` is the interpreter (not a virtual environment's link to it), ``stdlib`` the folder
    of its library, ``mapped`` all loaded shared objects, ``start`` the modules that the interpreter
    imports at its start.
    """

    program: Path
    stdlib: Path
    version: str
    modules: tuple[Module, ...]
    mapped: tuple[Path, ...]
    start: frozenset[str]

    def is_standard(self, module: Module) -> bool:
        """Whether *module* belongs to the interpreter, not to Ephemeroot or another project."""
        below = module.file.is_relative_to(self.stdlib)
        return below and not {"site-packages", "dist-packages"} & set(module.file.parts)


def trace(imports: list[str], calls: list[str] | None = None) -> Closure:
    """The closure of the boot's entry point, of the modules *imports*, and of calls of the
    functions *calls* (``module:function``).

    Raises ``Broken`` with the interpreter's message if an import fails.
    """
    wanted = [ENTRY, *imports]
    attempts: list[str] = []
    searched: set[Module] = set()
    while True:
        answer = _run(wanted, attempts, calls or [])
        closure = _closure(answer)
        found = _lazy_imports([one for one in closure.modules if one not in searched])
        found.difference_update(attempts)
        if not found:
            return closure
        attempts += sorted(found)
        searched.update(closure.modules)


def _run(imports: list[str], attempts: list[str], calls: list[str]) -> dict[str, Any]:
    words = []
    for entry in search_path():
        words += ["path", str(entry)]
    for name in imports:
        words += ["import", name]
    for name in attempts:
        words += ["try", name]
    for name in calls:
        words += ["call", name]
    # As bare as in the boot: without a locale, Python's variables and site-packages.
    done = subprocess.run(
        [interpreter(), "-I", "-S", "-B", tracer.__file__, *words],
        capture_output=True,
        env={"PATH": os.defpath},
        cwd="/",
        text=True,
        errors="surrogateescape",
        check=False,
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise Broken(
            f"cannot load the boot code: {said[-1] if said else f'exit {done.returncode}'}",
            "repair the installation of ephemeroot or of the library named",
        )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def interpreter() -> Path:
    """The interpreter behind a virtual environment's link, which does not work outside of it."""
    return Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()


def search_path() -> list[Path]:
    """The folders of Ephemeroot's package and of other libraries: this process's path without the
    standard library, which the bare interpreter finds by itself.
    """
    own = [Path(folder).parent for folder in ephemeroot.__path__]
    entries = [Path(entry) for entry in sys.path if entry and Path(entry).is_absolute()]
    standard = Path(os.__file__).resolve().parent
    kept = []
    for entry in [*own, *entries]:
        inside = entry in (standard, standard / "lib-dynload")
        if entry.is_dir() and not inside and entry not in kept:
            kept.append(entry)
    return kept


def _closure(answer: dict[str, Any]) -> Closure:
    files = []
    for name, found in answer["modules"].items():
        if found["kind"] in ("built-in", "frozen"):
            continue
        if found["kind"] not in ("source", "extension"):
            raise Broken(f"cannot pack the module {name}: it is loaded by a {found['kind']}")
        files.append(Module(name, found["kind"], Path(found["file"]), found["package"]))
    return Closure(
        program=interpreter(),
        stdlib=Path(answer["python"]["stdlib"]),
        version=answer["python"]["version"],
        modules=tuple(files),
        mapped=tuple(Path(path) for path in answer["mapped"]),
        start=frozenset(answer["python"]["start"]),
    )


def _lazy_imports(modules: Iterable[Module]) -> set[str]:
    """Modules of Ephemeroot and of the standard library that functions of our modules import when
    they are called. A wiper declares other projects' libraries itself (``Needs.python``).
    """
    found: set[str] = set()
    for module in modules:
        if module.kind == "source" and is_own(module.name):
            found |= _imported(ast.parse(module.file.read_bytes(), str(module.file)))
    found -= ON_DEMAND
    return {n for n in found if is_own(n) or n.partition(".")[0] in sys.stdlib_module_names}


def is_own(name: str) -> bool:
    """Whether the module *name* is of this program."""
    return name == OWN or name.startswith(OWN + ".")


def _imported(tree: ast.Module) -> set[str]:
    """The names that the functions of a module import. Only statements are searched: expressions,
    nine tenths of a tree, cannot import.
    """
    names: set[str] = set()
    pending: list[tuple[ast.AST, bool]] = [(tree, False)]
    while pending:
        node, called = pending.pop()
        if isinstance(node, ast.Import) and called:
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and called and node.module and node.level == 0:
            names.add(node.module)
            # `from package import name`: the name may be a module; if it is not, the import is
            # ignored.
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        called = called or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for block in _BLOCKS:
            pending += ((statement, called) for statement in getattr(node, block, ()))
    return names
