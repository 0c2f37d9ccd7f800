"""The kinds of values in the configuration: their checks, and their JSON Schema.

The kinds are those of ``linux/values.py``: ``plan`` is the kind there of the value that ``parse``
returns.

``parse`` takes a value from ``tomllib``, returns the checked value for the rest of the program, and
raises ``Mistake`` for an invalid value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from ephemeroot.config.syntax import clean, modes
from ephemeroot.config.syntax.problem import Mistake, Mistakes
from ephemeroot.linux import mounts, values

Schema = dict[str, object]
T = TypeVar("T")


class Kind:
    """One kind of value. ``word`` completes "the value must be …". ``plan`` is the kind in a plan:
    a key of ``values.CHECKS``, or the allowed words.
    """

    word = "anything"
    plan: str | tuple[str, ...] = "text"

    def parse(self, value: object) -> object:
        """Return the checked value. Raises ``Mistake``."""
        raise NotImplementedError

    def schema(self) -> Schema:
        """The JSON Schema of such a value."""
        raise NotImplementedError

    def wrong_type(self, value: object) -> Mistake:
        """The error for a value of another type."""
        hint = ""
        if isinstance(value, str) and value.lower() in ("true", "false", "yes", "no"):
            hint = f"write {'true' if value.lower() in ('true', 'yes') else 'false'} without quotes"
        return Mistake(f"the value must be {self.word}, not {type_word(value)}", hint)

    def text(self, value: object) -> str:
        """*value* if it is a string that is not empty and has no NUL. Raises ``Mistake``."""
        if not isinstance(value, str):
            raise self.wrong_type(value)
        if value == "":
            raise Mistake("the value must not be empty", "write a value, or remove the key")
        if "\0" in value:
            raise Mistake("the value contains a NUL character", "remove the NUL character")
        return value


def type_word(value: object) -> str:
    """The TOML type of *value* in words."""
    if isinstance(value, bool):
        return "a boolean"
    for type_, word in ((str, "a string"), (int, "a number"), (float, "a fraction"),
                        (list, "a list"), (dict, "a table")):  # fmt: skip
        if isinstance(value, type_):
            return word
    return "a date or time"


def each(items: Iterable[T], parse: Callable[[T], str]) -> list[str]:
    """The results of *parse* for all *items*. Raises ``Mistakes`` with all errors."""
    parsed: list[str] = []
    found: list[tuple[int, Mistake]] = []
    for position, item in enumerate(items):
        try:
            parsed.append(parse(item))
        except Mistake as mistake:
            found.append((position, mistake))
    if found:
        raise Mistakes(found)
    return parsed


class Boolean(Kind):
    """``true`` or ``false``."""

    plan = "boolean"
    word = "true or false"

    def parse(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise self.wrong_type(value)
        return value

    def schema(self) -> Schema:
        return {"type": "boolean"}


class Integer(Kind):
    """A whole number from 0 to ``largest``."""

    plan = "integer"
    word = "a whole number"
    largest = values.LARGEST_INTEGER
    too_large = "write a smaller number"

    def parse(self, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong_type(value)
        if value < 0:
            raise Mistake(f"the value must not be negative: {value}", "write 0 or more")
        if value > self.largest:
            raise Mistake(f"{value} is more than {self.largest}", self.too_large)
        return value

    def schema(self) -> Schema:
        return {"type": "integer", "minimum": 0, "maximum": self.largest}


class Days(Integer):
    """A number of days for which old roots are kept."""

    plan = "days"
    largest = values.LARGEST_DAYS
    too_large = "run 'ephemeroot roots keep NAME' to keep an old root without limit"


class Text(Kind):
    """A string that is not empty."""

    word = "a string"

    def parse(self, value: object) -> str:
        return self.text(value)

    def schema(self) -> Schema:
        return {"type": "string", "minLength": 1}


@dataclass(frozen=True)
class Choice(Kind):
    """One of several words."""

    words: tuple[str, ...]

    @property
    def plan(self) -> tuple[str, ...]:  # type: ignore[override]  # depends on the words
        """The words."""
        return self.words

    @property
    def word(self) -> str:  # type: ignore[override]  # depends on the words
        """The words."""
        return " or ".join(f'"{word}"' for word in self.words)

    def parse(self, value: object) -> str:
        text = self.text(value)
        if text not in self.words:
            reason = f"{text!r} is unknown: the value must be {self.word}"
            raise Mistake(reason, clean.close(text, self.words))
        return text

    def schema(self) -> Schema:
        return {"enum": list(self.words)}


class AbsolutePath(Kind):
    """An absolute path; repeated and trailing slashes are removed."""

    plan = "absolute path"
    word = "an absolute path"

    def parse(self, value: object) -> str:
        if not isinstance(value, str):
            raise self.wrong_type(value)
        return clean.absolute(value)

    def schema(self) -> Schema:
        return {"type": "string", "pattern": "^/"}


class HomePath(Kind):
    """A path relative to a user's home."""

    plan = "path"
    word = "a path below the home"

    def parse(self, value: object) -> str:
        if not isinstance(value, str):
            raise self.wrong_type(value)
        return clean.below_home(value)

    def schema(self) -> Schema:
        return {"type": "string", "pattern": "^[^/~]"}


class InnerPath(Kind):
    """A path relative to the top of a filesystem; a leading slash is allowed and ignored."""

    plan = "path"
    word = "a path from the top of the filesystem"

    def parse(self, value: object) -> str:
        if not isinstance(value, str):
            raise self.wrong_type(value)
        return clean.inner(value)

    def schema(self) -> Schema:
        return {"type": "string", "minLength": 1}


@dataclass(frozen=True)
class Mode(Kind):
    """A file mode in the syntax of chmod."""

    directory: bool = True
    plan = "mode"
    word = 'a mode such as "0750" or "u=rwx,g=rx,o="'

    def parse(self, value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            raise Mistake(
                f"{value} is a number, but a mode is a string", modes.explain_integer(value)
            )
        return modes.parse(self.text(value), directory=self.directory)

    def schema(self) -> Schema:
        return {"type": "string", "pattern": "^([0-7]{3,4}|[ugoa]*[-+=][-+=,rwxXstugoa0-7]*)$"}


@dataclass(frozen=True)
class Account(Kind):
    """A user or a group, by name or number; names are looked up when the plan is made."""

    what: str
    plan = "user or group id"

    @property
    def word(self) -> str:  # type: ignore[override]
        """User or group."""
        return f"the name or number of a {self.what}"

    def parse(self, value: object) -> str | int:
        if isinstance(value, int) and not isinstance(value, bool):
            if not 0 <= value < 2**32 - 1:
                raise Mistake(
                    f"{value} is not the number of a {self.what}", f"write 0 to {2**32 - 2}"
                )
            return value
        return self.text(value)

    def schema(self) -> Schema:
        return {"type": ["string", "integer"], "minLength": 1, "minimum": 0}


class Dataset(Kind):
    """The name of a ZFS dataset, with its pool (zfsconcepts(7))."""

    plan = "dataset"
    word = 'a dataset such as "tank/ROOT/debian"'
    longest = 255

    _NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.: -]*(?:/[A-Za-z0-9_.: -]+)*")

    def parse(self, value: object) -> str:
        text = self.text(value)
        if "@" in text or "#" in text:
            raise Mistake(f"{text!r} is a snapshot or a bookmark", f"write {self.word}")
        bad = any(part in (".", "..") for part in text.split("/"))
        if bad or len(text) > self.longest or not self._NAME.fullmatch(text):
            raise Mistake(f"{text!r} is not a dataset", f"write {self.word}")
        return text

    def schema(self) -> Schema:
        return {"type": "string", "pattern": f"^{self._NAME.pattern}$", "maxLength": self.longest}


class Strings(Kind):
    """A list of strings. All errors in its items are reported together (``Mistakes``)."""

    plan = "strings"
    word = "a list of strings"

    def parse(self, value: object) -> list[str]:
        if not isinstance(value, list):
            raise self.wrong_type(value)
        return each(value, lambda item: self.item(self.text(item)))

    def item(self, text: str) -> str:
        """One item after its check. Raises ``Mistake``."""
        return text

    def schema(self) -> Schema:
        return {"type": "array", "items": {"type": "string", "minLength": 1}}


class Patterns(Strings):
    """A string, or a list of strings of which one must match."""

    word = "a string or a list of strings"

    def parse(self, value: object) -> list[str]:
        if value == []:
            raise Mistake("the list is empty", f"write {self.word}, or remove the key")
        return super().parse(value if isinstance(value, list) else [self.text(value)])

    def schema(self) -> Schema:
        return {"anyOf": [Text().schema(), super().schema()]}


class Options(Strings):
    """A list of mount options (mount(8))."""

    word = 'a list of mount options such as ["noatime", "nodev"]'

    def parse(self, value: object) -> list[str]:
        if isinstance(value, str):
            listed = ", ".join(f'"{o}"' for o in value.split(","))
            raise Mistake("the value must be a list, not a string", f"write [{listed}]")
        return super().parse(value)

    def item(self, text: str) -> str:
        if "," in text and "=" not in text:
            raise Mistake(f"{text!r} contains several options", "write one string for each option")
        return text


class BindOptions(Options):
    """Options of a bind mount: flags of the mount, and options that only programs read."""

    def item(self, text: str) -> str:
        super().item(text)
        if text in mounts.MOUNT_FLAGS or text.startswith(("x-", "X-")):
            return text
        flags = ", ".join(mounts.MOUNT_FLAGS)
        raise Mistake(
            f"{text!r} is not an option of a bind mount, but of a filesystem",
            f"set it on the volume; a bind mount supports {flags} and x-…",
        )
