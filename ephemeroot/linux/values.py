"""The kinds of values in a plan and in a wiper's options.

A table is a tuple of ``Option``: the fields of an operation, or the options of a wiper.
``config/kinds.py`` has the same kinds for values in the configuration: it parses text, makes
suggestions and a JSON Schema, and is not in the initramfs.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

REQUIRED = object()
"""The default of an option without a default."""


def number(text: str | bytes, most: int = 18) -> int | None:
    """The number in *text*, which must be one to *most* decimal digits; ``None`` for other text.

    ``str.isdigit`` alone accepts ``²``, which ``int`` refuses, and ``int`` refuses more than 4,300
    digits (sys.set_int_max_str_digits).
    """
    if not (text.isascii() and text.isdigit() and len(text) <= most):
        return None
    return int(text)


class Option:
    """One key of a table.

    ``kind`` is a key of ``CHECKS``, or a tuple of allowed words. ``default`` is the value in the
    plan if the key is left out; if it is ``None``, ``None`` is also a valid value. ``help`` is one
    line for the reference, the manual and the JSON Schema.
    """

    __slots__ = ("default", "help", "kind", "name")

    def __init__(self, name: str, kind: str | tuple[str, ...], default: object, help: str) -> None:
        self.name = name
        self.kind = kind
        self.default = default
        self.help = help

    @property
    def key(self) -> str:
        """The name in JSON and TOML: ``mount-point`` for the attribute ``mount_point``."""
        return self.name.replace("_", "-")

    def fits(self, value: object) -> bool:
        """Whether *value* is valid for it: a plan may be damaged."""
        return (value is None and self.default is None) or fits(self.kind, value)


class Finding:
    """A mistake in an option's value, found by ``Wiper.validate``: ``key`` is the option, ``hint``
    the correction.
    """

    __slots__ = ("hint", "key", "reason", "warning")

    def __init__(self, key: str, reason: str, hint: str = "", *, warning: bool = False) -> None:
        self.key = key
        self.reason = reason
        self.hint = hint
        self.warning = warning


def fits(kind: str | tuple[str, ...], value: object) -> bool:
    """Whether *value* is of this *kind*. Raises ``KeyError`` for an unknown kind."""
    if isinstance(kind, tuple):
        return isinstance(value, str) and value in kind
    return CHECKS[kind](value)


def describe(kind: str | tuple[str, ...]) -> str:
    """The *kind* in words, to complete "must be of the kind"."""
    return kind if isinstance(kind, str) else " or ".join(kind)


def misfit(options: Iterable[Option], values: Mapping[str, object]) -> str:
    """The name of the first of *options* whose value is not of its kind; empty if there is none. A
    missing key, or the value ``None``, is valid.
    """
    for option in options:
        value = values.get(option.name)
        if value is not None and not option.fits(value):
            return option.name
    return ""


def is_path(value: object) -> bool:
    """Whether *value* is an absolute path without ``.``, ``..``, doubled or final slashes."""
    if not isinstance(value, str) or not value.startswith("/") or not _is_text(value):
        return False
    return value == "/" or all(part not in ("", ".", "..") for part in value[1:].split("/"))


def is_relative(value: object) -> bool:
    """Whether *value* is a clean relative path; the empty string is the directory itself."""
    return value == "" or (isinstance(value, str) and is_path("/" + value))


def _is_name(value: object) -> bool:
    return isinstance(value, str) and is_path("/" + value) and "/" not in value


def _is_text(value: object) -> bool:
    """Whether it can be passed to the kernel: half of a surrogate pair is not a byte."""
    if not isinstance(value, str) or value == "" or "\0" in value:
        return False
    try:
        return value.isascii() or bool(value.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return False


def _is_strings(value: object) -> bool:
    # Defaults of wipers may be tuples; JSON has lists.
    return isinstance(value, (list, tuple)) and all(
        isinstance(one, str) and "\0" not in one for one in value
    )


def _is_paths(value: object) -> bool:
    return isinstance(value, list) and all(is_path(one) for one in value)


def _is_table(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _number(most: int) -> Callable[[object], bool]:
    return lambda value: (
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most
    )


LARGEST_INTEGER = 1_000_000_000
LARGEST_DAYS = 100_000
LONGEST = 86400
"""The longest timeout in seconds."""

CHECKS: dict[str, Callable[[object], bool]] = {
    "boolean": lambda value: isinstance(value, bool),
    "integer": _number(LARGEST_INTEGER),
    "days": _number(LARGEST_DAYS),
    "seconds": _number(LONGEST),
    "size": _number((1 << 63) - 1),
    "mode": _number(0o7777),
    # 2**32 - 1 means "no change" to chown(2).
    "user or group id": _number(2**32 - 2),
    "string": lambda value: isinstance(value, str) and "\0" not in value,
    "text": _is_text,
    "strings": _is_strings,
    "amount": _is_text,
    "name": _is_name,
    "dataset": _is_text,
    "path": is_relative,
    "absolute path": is_path,
    "absolute paths": _is_paths,
    "volume": is_path,
    "table": _is_table,
}
"""The check of each kind for a value in a plan. Sizes are in bytes, modes are numbers, an amount is
a number of bytes or a percentage with its sign, as text. A ``path`` is relative (to the top of a
filesystem, or of a store), a ``volume`` is a mount point."""
