"""Run in a bare interpreter: import the boot's modules, and print everything that is loaded.

    python3 -I -S -B tracer.py [path DIR | import MODULE | try MODULE | call MODULE:NAME]…

``path`` appends to the search path, ``try`` imports a module that may not exist, ``call`` calls a
function, for modules that a library loads at its first use.

Until the list is complete, this file must import nothing that a bare interpreter has not loaded.
The answer is JSON: ``modules`` maps each module's name to its kind (``source``, ``extension``,
``built-in``, ``frozen``), file and whether it is a package; ``mapped`` lists the files mapped as
code; ``python`` describes the interpreter, with the modules that it imports at its start
(``start``).
"""

from __future__ import annotations

import sys

START = sorted(sys.modules.keys() - {"__future__"})
"""The modules that the interpreter imports at its start."""


def follow(words: list[str]) -> None:
    """Run the actions of the command line *words* in their order."""
    for action, value in zip(words[::2], words[1::2], strict=True):
        if action == "path":
            sys.path.append(value)
        elif action == "import":
            __import__(value)
        elif action == "try":
            try:
                __import__(value)
            except ModuleNotFoundError as error:
                if error.name != value:
                    raise
        elif action == "call":
            module, _, name = value.partition(":")
            __import__(module)
            getattr(sys.modules[module], name)()
        else:
            raise ValueError(action)


def loaded() -> dict[str, object]:
    """Everything that this interpreter has loaded."""
    modules = {}
    for name, module in sorted(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        if spec is None or name == "__main__":
            continue
        modules[name] = {
            "kind": _kind(spec.origin, spec.loader),
            # Frozen modules of the standard library have the name of their source, too.
            "file": getattr(module, "__file__", None),
            "package": hasattr(module, "__path__"),
        }
    return {
        "modules": modules,
        "mapped": _mapped(),
        "python": {
            "program": sys.executable,
            "stdlib": sys._stdlib_dir,  # type: ignore[attr-defined]
            "path": [entry for entry in sys.path if entry],
            "start": START,
            "version": f"{sys.version_info[0]}.{sys.version_info[1]}",
        },
    }


def _kind(origin: str | None, loader: object) -> str:
    if origin in ("built-in", "frozen"):
        return origin
    kind = type(loader).__name__
    return {"ExtensionFileLoader": "extension", "SourceFileLoader": "source"}.get(kind, kind)


def _mapped() -> list[str]:
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        fields = [line.rstrip("\n").split(None, 5) for line in maps]
    return sorted({f[5] for f in fields if len(f) == 6 and "x" in f[1] and f[5].startswith("/")})


if __name__ == "__main__":
    follow(sys.argv[1:])
    answer = loaded()
    import json

    sys.stdout.write(json.dumps(answer) + "\n")
