"""What the plan is made of: small operations that describe, check and carry out themselves.

The same object prints the line of ``ephemeroot plan``, of the dry run, of the boot log
and of the report, and does the work: what is announced is what is done. Classes declare
their fields once, in ``FIELDS``; reading a plan checks each value's kind, for a plan is
input that may be damaged.
"""

from __future__ import annotations

from ephemeroot.errors import Damaged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeroot.hooks.stage import Stage

REQUIRED = object()
"""The default of a field that has none."""


class Operation:
    """One step of a stage.

    ``KIND`` names it in the plan; ``FIELDS`` are ``(name, kind, default)``. An
    attribute ``mount_point`` is the key ``mount-point``.
    """

    KIND = ""
    FIELDS: tuple[tuple[str, str, object], ...] = ()
    __slots__ = ()

    def __init__(self, /, **values: object) -> None:
        for name, kind, default in self.FIELDS:
            value = values.pop(name, default)
            if value is REQUIRED:
                raise Damaged(f"operation {self.KIND}: {_key(name)} is missing")
            if not (value is None and default is None) and not _CHECKS[kind](value):
                raise Damaged(f"operation {self.KIND}: {_key(name)} is no {kind}: {value!r}")
            setattr(self, name, value)
        if values:
            unknown = ", ".join(sorted(_key(name) for name in values))
            raise Damaged(f"operation {self.KIND}: unknown keys: {unknown}")

    def to_json(self) -> dict[str, object]:
        """The operation as the plan stores it; values equal to the default are left out."""
        values: dict[str, object] = {"operation": self.KIND}
        for name, _, default in self.FIELDS:
            value = getattr(self, name)
            if value != default:
                values[_key(name)] = value
        return values

    def describe(self) -> str:
        """One line that says what ``execute`` will do, in the field's words."""
        raise NotImplementedError

    def execute(self, stage: Stage) -> str:
        """Do it; return in a word or two what became of it (``bound``, ``linked``).

        Raises ``EphemerootError`` or ``OSError``; what that means for the boot is the
        stage's business.
        """
        raise NotImplementedError

    def carry_over(self, stage: Stage, previous: int) -> str:
        """Before the wipe, with every proof held: save from the open *previous* root what
        the store lacks. Returns what was saved in a word or two, empty for nothing.
        """
        return ""

    def describe_carry_over(self, stage: Stage) -> str:
        """One line that says what ``carry_over`` will save, empty for nothing. The stores are
        looked at, and nothing is changed.
        """
        return ""

    def prepare(self, stage: Stage) -> str:
        """Before the overlay that the path is inside is mounted from the same store: change what
        must be changed there. Returns what was done in a word or two, empty for nothing.
        """
        return ""


def _key(name: str) -> str:
    return name.replace("_", "-")


def is_path(value: object) -> bool:
    """Whether *value* is an absolute path without ``.``, ``..``, doubled or final slashes."""
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        return False
    return value == "/" or all(part not in ("", ".", "..") for part in value[1:].split("/"))


def is_relative(value: object) -> bool:
    """Whether *value* is a clean path below something; the empty string is that itself."""
    return value == "" or (isinstance(value, str) and is_path("/" + value))


def _is_name(value: object) -> bool:
    return isinstance(value, str) and is_path("/" + value) and "/" not in value


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value


def _is_strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) and "\0" not in v for v in value)


def _is_paths(value: object) -> bool:
    return isinstance(value, list) and all(is_path(v) for v in value)


def _is_id(value: object) -> bool:
    # 2**32 - 1 is "leave it alone" to chown(2).
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32 - 1


def _is_mode(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0o7777


def _is_seconds(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 86400


_CHECKS: dict[str, Callable[[object], bool]] = {
    "path": is_path,
    "relative path": is_relative,
    "name": _is_name,
    "text": _is_text,
    "list of strings": _is_strings,
    "list of paths": _is_paths,
    "user or group id": _is_id,
    "mode": _is_mode,
    "number of seconds": _is_seconds,
    "boolean": lambda value: isinstance(value, bool),
    "table": lambda value: isinstance(value, dict) and all(isinstance(key, str) for key in value),
    "method": lambda value: value in ("auto", "bind", "symlink"),
    "initial": lambda value: value in ("previous", "fresh", "empty"),
}
