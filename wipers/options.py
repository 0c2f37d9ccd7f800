"""The configuration of a wiper: the options of its table, and the mistakes in their values.

Part of the contract: a wiper imports these names from ``contract``.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Option:
    """One key of the wiper's configuration table.

    ``kind`` is one of ``string``, ``path`` (relative to the top of the filesystem),
    ``integer`` (0 to 1,000,000,000), ``days`` (0 to 100,000), ``boolean``, ``size``
    (``512M``), ``amount`` (a size or a percentage), ``mode``, ``volume`` (the mount point of
    a volume needed for boot, on which something can be kept), ``dataset`` (the full name of
    a ZFS dataset) and ``strings``. ``default`` is what the plan gets if the
    key is left out. ``help`` is one line for the manual and the JSON Schema.
    """

    __slots__ = ("default", "help", "kind", "name")

    def __init__(self, name: str, kind: str, default: object, help: str) -> None:
        self.name = name
        self.kind = kind
        self.default = default
        self.help = help


def retention(what: str = "old root", only: str = "") -> tuple[Option, ...]:
    """The options of a wiper that keeps old roots, the same for each (see ``retention``): *what*
    it calls one, and *only* in which mode it keeps them, with a colon.
    """
    when = f"{only} " if only else ""
    return (
        Option("keep-days", "days", 30, f"{when}days for which every {what} is kept"),
        Option("keep-last", "integer", 3, f"{when}{what}s that are kept whatever their age"),
        Option("keep-at-most", "integer", None, f"{when}{what}s at most, however young they are"),
        Option("min-free", "amount", None, f"{when}below it the oldest {what}s go early"),
    )


_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,), "path": (str,), "integer": (int,), "days": (int,), "boolean": (bool,),
    "size": (int,), "amount": (str,), "mode": (int,), "volume": (str,), "dataset": (str,),
    "strings": (list, tuple),
}  # fmt: skip
"""What a plan has for each kind. ``None`` is a key that was left out."""


def wrong_type(options: Iterable[Option], settings: dict[str, object]) -> str:
    """The first key of *settings* whose value is not of its option's kind, empty if there is none:
    a plan is input that may be damaged.
    """
    for option in options:
        value, types = settings.get(option.name), _TYPES.get(option.kind)
        if value is None or types is None:
            continue
        if isinstance(value, bool) and types != (bool,):
            return option.name
        if not isinstance(value, types) or (isinstance(value, int) and not 0 <= value < 1 << 63):
            return option.name
        if isinstance(value, (list, tuple)) and not all(isinstance(item, str) for item in value):
            return option.name
    return ""


class Finding:
    """Something that ``validate`` found: ``key`` is the option, ``hint`` what to do."""

    __slots__ = ("hint", "key", "reason", "warning")

    def __init__(self, key: str, reason: str, hint: str = "", *, warning: bool = False) -> None:
        self.key = key
        self.reason = reason
        self.hint = hint
        self.warning = warning
