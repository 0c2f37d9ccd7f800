"""The record of packages of the running root that are not in the base, for ``status``."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from ephemeroot.errors import Damaged
from ephemeroot.linux import documents, paths

Packages = dict[str, tuple[str | None, str | None]]
"""By name: the version in the base and that of the running root, ``None`` for not installed."""

RECORD = "run/ephemeroot/packages.json"
FORMAT = "ephemeroot-package-changes"
VERSION = 1

_NAMED = 5


def write(root: Path, found: Packages, changed: Collection[str]) -> None:
    """Record *found*, and the names of all packages that were *changed* in this boot."""
    if not changed:
        return
    path = root / RECORD
    path.parent.mkdir(mode=0o755, exist_ok=True)
    packages = {name: list(versions) for name, versions in found.items()}
    document = {
        "format": FORMAT, "version": VERSION, "packages": packages, "changed": sorted(changed),
    }  # fmt: skip
    paths.write_atomically(str(path), documents.dump(document) + b"\n", 0o644)


def read(root: Path) -> Packages:
    """The last record of this boot. Raises ``Damaged``."""
    return _read(root)[0]


def changed(root: Path) -> list[str]:
    """The names of all packages that were changed in this boot. Raises ``Damaged``."""
    return _read(root)[1]


def _read(root: Path) -> tuple[Packages, list[str]]:
    path = str(root / RECORD)
    try:
        document = documents.parse(documents.read(path))
        packages = document["packages"]
        found = {str(name): (there, here) for name, (there, here) in packages.items()}
        return found, [str(name) for name in document["changed"]]
    except FileNotFoundError:
        return {}, []
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise Damaged(f"{path} cannot be read: {error}", f"'rm {path}' removes it") from None


def describe(found: Packages) -> str:
    """One line about packages that the base does not have as the running root has them."""
    number = f"{len(found)} package{'s' if len(found) != 1 else ''}"
    names = ", ".join([*found][:_NAMED])
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return f"the next boot forgets the change of {number} of the running root ({names}{more})"


def orders(found: Packages) -> list[tuple[str, list[str]]]:
    """The verbs that make the changes permanent, and their packages."""
    both = [
        ("install", [name for name, (_, here) in found.items() if here is not None]),
        ("remove", [name for name, (_, here) in found.items() if here is None]),
    ]
    return [(verb, names) for verb, names in both if names]


def commands(found: Packages) -> list[str]:
    """The same for people."""
    lines = []
    for verb, names in orders(found):
        rest = " …" if len(names) > _NAMED else ""
        lines.append(f"'ephemeroot {verb} {' '.join(names[:_NAMED])}{rest}' makes it permanent")
    return lines


def to_json(found: Packages) -> list[dict[str, Any]]:
    """*found* for programs."""
    return [{"name": name, "base": there, "running": here} for name, (there, here) in found.items()]
