"""The reference of the plan's operations and of an entry's keys, from the tables that declare them.

The site inserts it into docs/design.md, in place of the comment `MARK`.
"""

from __future__ import annotations

from collections.abc import Iterable

from ephemeroot.config.syntax.kinds import Kind
from ephemeroot.config.syntax.settings import OPTIONS, Setting, keys
from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.plan import PERSIST_STAGE, WIPE_STAGE
from ephemeroot.linux.values import REQUIRED, Option, describe

MARK = "<!-- make docs: the reference of operations and entries -->"


def text() -> str:
    """All of it as Markdown."""
    parts = [_operation(kind) for kind in (*WIPE_STAGE.values(), *PERSIST_STAGE.values())]
    for what, class_ in OPTIONS.items():
        rows = [(s.name, _kind(s), s.default, s.help) for s in keys(class_)]
        parts.append(_table(f"Keys of a {what} in the configuration", rows))
    return "\n".join(parts)


def _operation(kind: type[Operation]) -> str:
    rows = [(one.key, describe(one.kind), one.default, one.help) for one in _sorted(kind.FIELDS)]
    return _table(f"Operation `{kind.KIND}`", rows)


def _sorted(fields: Iterable[Option]) -> list[Option]:
    """The required fields first."""
    return sorted(fields, key=lambda one: one.default is not REQUIRED)


def _kind(setting: Setting) -> str:
    return describe(setting.kind.plan) if isinstance(setting.kind, Kind) else "table"


def _table(title: str, rows: Iterable[tuple[str, str, object, str]]) -> str:
    lines = [f"**{title}**", "", "| key | kind | default | |", "|---|---|---|---|"]
    for key, kind, default, help_ in rows:
        shown = "must be set" if default is REQUIRED else "" if default is None else f"`{default}`"
        lines.append(f"| `{key}` | {kind} | {shown} | {help_} |")
    return "\n".join((*lines, ""))
