"""How a person writes each kind of value: it is checked, and described in a JSON Schema.

The kinds are those of ``linux/values.py``, the one vocabulary: ``plan`` is the word there for the
value that ``parse`` returns.

``parse`` takes what ``tomllib`` made of the value, returns what the rest of the program
wants and raises ``Mistake`` for everything else.
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
    """One kind of value. ``word`` completes "this must be …". A plan has it as ``plan`` (a kind of
    ``values.CHECKS``, or the words of which it is one).
    """

    word = "anything"
    plan: str | tuple[str, ...] = "text"

    def parse(self, value: object) -> object:
        """Return the checked value. Raises ``Mistake``."""
        raise NotImplementedError

    def schema(self) -> Schema:
        """What a JSON Schema says about such a value."""
        raise NotImplementedError

    def wrong_type(self, value: object) -> Mistake:
        """The mistake of a value of another type."""
        hint = ""
        if isinstance(value, str) and value.lower() in ("true", "false", "yes", "no"):
            hint = f"write {'true' if value.lower() in ('true', 'yes') else 'false'}, no quotes"
        return Mistake(f"must be {self.word}, not {type_word(value)}", hint)

    def text(self, value: object) -> str:
        """*value* if it is a string, not empty and without NUL. Raises ``Mistake``."""
        if not isinstance(value, str):
            raise self.wrong_type(value)
        if value == "":
            raise Mistake("must not be empty", "write a value, or remove it")
        if "\0" in value:
            raise Mistake("contains a NUL character", "remove it")
        return value


def type_word(value: object) -> str:
    """The TOML type of *value* in a word or two."""
    if isinstance(value, bool):
        return "a boolean"
    for type_, word in ((str, "a string"), (int, "a number"), (float, "a fraction"),
                        (list, "a list"), (dict, "a table")):  # fmt: skip
        if isinstance(value, type_):
            return word
    return "a date or time"


def each(items: Iterable[T], parse: Callable[[T], str]) -> list[str]:
    """What *parse* makes of all *items*. Raises ``Mistakes`` with every ``Mistake`` of it."""
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
            raise Mistake(f"{value} must not be negative")
        if value > self.largest:
            raise Mistake(f"{value} is more than {self.largest}", self.too_large)
        return value

    def schema(self) -> Schema:
        return {"type": "integer", "minimum": 0, "maximum": self.largest}


class Days(Integer):
    """A number of days for which something is kept."""

    plan = "days"
    largest = values.LARGEST_DAYS
    too_large = "to keep an old root for ever, run 'ephemeroot roots keep NAME'"


class Text(Kind):
    """A string that is not empty."""

    word = "a string"

    def parse(self, value: object) -> str:
        return self.text(value)

    def schema(self) -> Schema:
        return {"type": "string", "minLength": 1}


@dataclass(frozen=True)
class Choice(Kind):
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def plan(self) -> tuple[str, ...]:  # type: ignore[override]  # what is fixed elsewhere depends here
        """The words themselves."""
        return self.words

    @property
    def word(self) -> str:  # type: ignore[override]  # what is fixed elsewhere depends here
        """The words themselves."""
        return " or ".join(f'"{word}"' for word in self.words)

    def parse(self, value: object) -> str:
        text = self.text(value)
        if text not in self.words:
            reason = f"{text!r} is unknown: must be {self.word}"
            raise Mistake(reason, clean.close(text, self.words))
        return text

    def schema(self) -> Schema:
        return {"enum": list(self.words)}


class AbsolutePath(Kind):
    """An absolute path; doubled and trailing slashes are cleaned away."""

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
    """A path from the top of a filesystem; a leading slash is allowed and means nothing."""

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
    """A mode as chmod reads it."""

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
                raise Mistake(f"{value} is not a {self.what} number")
            return value
        return self.text(value)

    def schema(self) -> Schema:
        return {"type": ["string", "integer"], "minLength": 1, "minimum": 0}


class Dataset(Kind):
    """The name of a ZFS dataset, from its pool on (zfsconcepts(7))."""

    plan = "dataset"
    word = 'a dataset such as "tank/ROOT/debian"'
    longest = 255

    _NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.: -]*(?:/[A-Za-z0-9_.: -]+)*")

    def parse(self, value: object) -> str:
        text = self.text(value)
        if "@" in text or "#" in text:
            raise Mistake(f"{text!r} is a snapshot or a bookmark", f"must be {self.word}")
        bad = any(part in (".", "..") for part in text.split("/"))
        if bad or len(text) > self.longest or not self._NAME.fullmatch(text):
            raise Mistake(f"{text!r} is not a dataset", f"must be {self.word}")
        return text

    def schema(self) -> Schema:
        return {"type": "string", "pattern": f"^{self._NAME.pattern}$", "maxLength": self.longest}


class Strings(Kind):
    """A list of strings. All mistakes in its items are reported at once (``Mistakes``)."""

    plan = "strings"
    word = "a list of strings"

    def parse(self, value: object) -> list[str]:
        if not isinstance(value, list):
            raise self.wrong_type(value)
        return each(value, lambda item: self.item(self.text(item)))

    def item(self, text: str) -> str:
        """One item as the program wants it. Raises ``Mistake``."""
        return text

    def schema(self) -> Schema:
        return {"type": "array", "items": {"type": "string", "minLength": 1}}


class Patterns(Strings):
    """A string, or a list of strings of which one must fit."""

    word = "a string or a list of strings"

    def parse(self, value: object) -> list[str]:
        if value == []:
            raise Mistake("the list is empty", f"write {self.word}, or remove the key")
        return super().parse(value if isinstance(value, list) else [self.text(value)])

    def schema(self) -> Schema:
        return {"anyOf": [Text().schema(), super().schema()]}


class Options(Strings):
    """Mount options, a list as mount(8) takes them."""

    word = 'a list of mount options such as ["noatime", "nodev"]'

    def parse(self, value: object) -> list[str]:
        if isinstance(value, str):
            listed = ", ".join(f'"{o}"' for o in value.split(","))
            raise Mistake("must be a list, not a string", f"write [{listed}]")
        return super().parse(value)

    def item(self, text: str) -> str:
        if "," in text and "=" not in text:
            raise Mistake(f"{text!r} contains several options", "write one string for each")
        return text


class BindOptions(Options):
    """Options of a bind mount: flags of the mount itself, and what only programs read."""

    def item(self, text: str) -> str:
        super().item(text)
        if text in mounts.MOUNT_FLAGS or text.startswith(("x-", "X-")):
            return text
        flags = ", ".join(mounts.MOUNT_FLAGS)
        raise Mistake(
            f"{text!r} is not an option of a bind mount, but of the whole filesystem",
            f"set it on the volume; a bind supports {flags} and x-…",
        )
