"""What the plan is made of: small operations that describe, check and carry out themselves.

The same object prints the line of ``ephemeroot plan``, of the dry run, of the boot log
and of the report, and does the work, so both always agree. A class declares each of
its fields once, by ``field``. The plan's format, its validation, the slots and the constructor
come from that, and so does the reference (``tools/site/reference.py``).
"""

from __future__ import annotations

from ephemeroot.errors import Damaged
from ephemeroot.linux.values import REQUIRED, Option, describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, Self, dataclass_transform

    from ephemeroot.hooks.stage import Stage
else:

    def dataclass_transform(**_):
        """Only type checkers make something of it, and ``typing`` costs 8 ms."""
        return lambda class_: class_


def field(kind: str | tuple[str, ...], help: str, *, default: Any = REQUIRED) -> Any:
    """Declare the field of an operation that it is assigned to. *kind* and *help* are those of an
    ``Option``. A plan that lacks a field without *default* is damaged.
    """
    return Option("", kind, default, help)


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(field,))
class _Declaring(type):
    """Makes slots of the fields that a class declares, and its ``FIELDS``."""

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> Any:
        own = {key: value for key, value in namespace.items() if isinstance(value, Option)}
        for key, option in own.items():
            option.name = key
            del namespace[key]
        inherited = {
            option.name: option for base in bases for option in getattr(base, "FIELDS", ())
        }
        namespace["__slots__"] = tuple(key for key in own if key not in inherited)
        fields = tuple({**inherited, **own}.values())
        namespace["FIELDS"] = fields
        namespace["_DEFAULTS"] = tuple((option.name, option.default) for option in fields)
        return super().__new__(cls, name, bases, namespace)


INITIAL = ("previous", "fresh", "empty")
"""Where the first content of a path can come from: the previous root, the new one, or nowhere."""


class Operation(metaclass=_Declaring):
    """One step of a stage.

    ``KIND`` names it in the plan; ``FIELDS`` are what ``field`` declared, those of the base class
    first. An attribute ``mount_point`` is the key ``mount-point``.
    """

    KIND = ""
    FIELDS: ClassVar[tuple[Option, ...]]
    _DEFAULTS: ClassVar[tuple[tuple[str, Any], ...]]

    def __init__(self, /, **values: object) -> None:
        for option in self.FIELDS:
            value = values.pop(option.name, option.default)
            if value is REQUIRED:
                raise Damaged(f"operation {self.KIND}: {option.key} is missing")
            if value is not option.default and not option.fits(value):
                wanted = describe(option.kind)
                raise Damaged(
                    f"operation {self.KIND}: {option.key} is not of the kind {wanted}: {value!r}"
                )
            setattr(self, option.name, value)
        if values:
            unknown = ", ".join(sorted(name.replace("_", "-") for name in values))
            raise Damaged(f"operation {self.KIND}: unknown keys: {unknown}")

    @classmethod
    def of(cls, values: dict[str, object]) -> Operation:
        """The operation with *values* that the constructor has accepted before."""
        operation = cls.__new__(cls)
        for name, default in cls._DEFAULTS:
            setattr(operation, name, values.get(name, default))
        return operation

    def to_json(self) -> dict[str, object]:
        """The operation as the plan stores it; values equal to the default are left out."""
        values: dict[str, object] = {"operation": self.KIND}
        for option in self.FIELDS:
            value = getattr(self, option.name)
            if value != option.default:
                values[option.key] = value
        return values

    def changed(self, **values: object) -> Self:
        """The same operation with other *values*."""
        kept = {option.name: getattr(self, option.name) for option in self.FIELDS}
        return type(self)(**{**kept, **values})

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
        """Before the wipe, with every proof held: seed from the open *previous* root what
        the store lacks. Returns the result in a word or two, empty without a change.
        """
        return ""

    def describe_carry_over(self, stage: Stage) -> str:
        """One line that says what ``carry_over`` will save, empty for nothing. The stores are
        looked at, and nothing is changed.
        """
        return ""

    def prepare(self, stage: Stage) -> str:
        """Before the overlay that the path is inside is mounted from the same store: make the
        necessary changes there. Returns the result in a word or two, empty without a change.
        """
        return ""


class Persisted(Operation):
    """A declared path that has its content in a store."""

    path: str = field("absolute path", "where the new root has it")
    store: str = field("absolute path", "the store that keeps it")
    source: str = field("path", "where the store has it, from the top of the store")
    user: int | None = field("user or group id", "owner of a new one", default=None)
    group: int | None = field("user or group id", "group of a new one", default=None)
    mode: int | None = field("mode", "mode of a new one", default=None)
    required: bool = field("boolean", "the boot fails if this does", default=False)


class Seeded(Persisted):
    """One whose content can come from a root when it is declared for the first time."""

    initial: str = field(INITIAL, "where its first content comes from", default=INITIAL[0])
