"""The kinds of values for amounts of time, memory and disk space."""

from __future__ import annotations

import re

from ephemeroot.config.syntax.kinds import Kind, Schema
from ephemeroot.config.syntax.problem import Mistake
from ephemeroot.linux import values


class Seconds(Kind):
    """A time span: a number of seconds, or text such as ``10s`` or ``1min 30s``."""

    plan = "seconds"
    word = 'a time such as 90, "10s" or "2min"'
    longest = values.LONGEST

    _UNITS = {"": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}
    # Possessive quantifiers: without them, 100,000 digits that do not match take too long.
    _SPAN = re.compile(r"\s*+(?:\d{1,9}+(?!\d)\s*+(?:sec|s|min|m|h|)\s*+)++", re.ASCII)
    _PART = re.compile(r"(\d+)\s*([a-z]*)", re.ASCII)

    def parse(self, value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            seconds = value
        else:
            text = self.text(value)
            if not self._SPAN.fullmatch(text):
                raise Mistake(f"{text!r} is not a time", f"write {self.word}")
            seconds = sum(int(n) * self._UNITS[unit] for n, unit in self._PART.findall(text))
        if not 0 < seconds <= self.longest:
            raise Mistake(f"{value!r} is not between 1 second and a day", f"write {self.word}")
        return seconds

    def schema(self) -> Schema:
        return {"type": ["integer", "string"], "minimum": 1, "maximum": self.longest}


class Patience(Seconds):
    """A time limit; 0 and ``infinity`` mean unlimited."""

    word = 'a time such as 90, "10s" or "2min"; 0 waits without limit'

    def parse(self, value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            endless = value == 0
        else:
            text = self.text(value)
            endless = text == "infinity" or self._NOTHING.fullmatch(text) is not None
        return 0 if endless else super().parse(value)

    _NOTHING = re.compile(r"\s*+(?:0+\s*+(?:sec|s|min|m|h|)\s*+)++", re.ASCII)

    def schema(self) -> Schema:
        return {**super().schema(), "minimum": 0}


class Size(Kind):
    """A number of bytes: ``1048576`` or ``512M`` (powers of 1024)."""

    plan = "size"
    word = 'a size such as "512M" or "2G"'

    _SIZE = re.compile(r"(\d{1,19})\s*(?:([KMGTPE])(?:i?B)?)?", re.ASCII)

    def parse(self, value: object) -> object:
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        text = self.text(value)
        found = self._SIZE.fullmatch(text)
        if found is None:
            raise Mistake(f"{text!r} is not a size", f"write {self.word}")
        size = int(found[1]) * 1024 ** (" KMGTPE".index(found[2]) if found[2] else 0)
        if size >= 1 << 63:
            raise Mistake(f"{text!r} is larger than any filesystem", f"write {self.word}")
        return size

    def schema(self) -> Schema:
        return {"type": ["integer", "string"], "minimum": 0}


class Amount(Size):
    """A size, or a percentage: ``10%``. A percentage stays a text."""

    plan = "amount"
    word = 'a size such as "2G" or a part such as "10%"'

    _PERCENT = re.compile(r"(\d{1,19})\s*%", re.ASCII)

    def parse(self, value: object) -> object:
        if isinstance(value, str) and (found := self._PERCENT.fullmatch(value)):
            if int(found[1]) > 100:
                raise Mistake(f"{value!r} is more than 100%", f"write {self.word}")
            return f"{int(found[1])}%"
        return str(super().parse(value))
