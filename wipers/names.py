"""The names of retired roots: the UTC time of retirement, and the facts about them.

``2026-11-23T02-15-00Z``, then in this order ``.2`` (a second one in the same second),
``.unsynced`` (the clock was not trustworthy), ``.unused`` (no boot was complete) and ``.keep``
(never pruned). Only characters that ZFS also allows. A name that is not written exactly like
this is foreign, and nothing here ever touches it.
"""

from __future__ import annotations

import time

from ephemeroot.linux import values

LATEST = 253402300799
"""9999-12-31T23:59:59Z: the last second that a name can hold, in seconds since 1970."""


class Name:
    """The name of a retired root.

    ``time`` is when it was retired, in seconds since 1970 (0 to ``LATEST``; anything
    else is moved there), ``number`` counts from 1 within a second. Both together are
    its ``identity``; the flags may change over its life.
    """

    __slots__ = ("keep", "number", "time", "unsynced", "unused")

    def __init__(
        self,
        when: float,
        number: int = 1,
        *,
        unsynced: bool = False,
        unused: bool = False,
        keep: bool = False,
    ) -> None:
        self.time = min(max(int(when), 0), LATEST)
        self.number = number
        self.unsynced = unsynced
        self.unused = unused
        self.keep = keep

    @property
    def identity(self) -> tuple[int, int]:
        return self.time, self.number

    @property
    def text(self) -> str:
        """The name without its flags, which never changes."""
        t = time.gmtime(self.time)
        text = (
            f"{t.tm_year:04}-{t.tm_mon:02}-{t.tm_mday:02}"
            f"T{t.tm_hour:02}-{t.tm_min:02}-{t.tm_sec:02}Z"
        )
        return f"{text}.{self.number}" if self.number > 1 else text

    def __str__(self) -> str:
        text = self.text
        for flag in ("unsynced", "unused", "keep"):
            if getattr(self, flag):
                text += f".{flag}"
        return text

    def __repr__(self) -> str:
        return f"Name({self})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Name) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def changed(self, **flags: bool) -> Name:
        """The same name with other flags."""
        values = {"unsynced": self.unsynced, "unused": self.unused, "keep": self.keep} | flags
        return Name(self.time, self.number, **values)

    def at(self, identity: tuple[int, int]) -> Name:
        """The same flags at another time and number."""
        when, number = identity
        flags = {"unsynced": self.unsynced, "unused": self.unused, "keep": self.keep}
        return Name(when, number, **flags)


def parse(text: str) -> Name | None:
    """The ``Name`` that is written *text*, or ``None`` if that is not a name of Ephemeroot's."""
    stamp, dot, rest = text.partition(".")
    when = _stamp(stamp)
    if when is None or (dot and not rest):
        return None
    parts = rest.split(".") if rest else []
    number = 1
    counted = values.number(parts[0], 9) if parts else None
    if counted is not None:
        number = counted
        del parts[0]
    flags = dict.fromkeys(parts, True)
    if not flags.keys() <= {"unsynced", "unused", "keep"}:
        return None
    name = Name(when, number, **flags)
    # One spelling only: a name that would be written differently is not ours.
    return name if str(name) == text else None


def free(wanted: Name, taken: set[tuple[int, int]]) -> Name:
    """*wanted*, with a number above all that identities in *taken* have in its second.

    Never one in between: it was another root's, which was pruned meanwhile, and the order of
    the names is the order in which roots were retired.
    """
    used = [number for when, number in taken if when == wanted.time]
    if not used:
        return wanted
    return wanted.at((wanted.time, max(wanted.number, max(used) + 1)))


def parse_recipe(text: str) -> int | None:
    """The time in a name that the well-known shell recipe gave, else ``None``.

    ``2024-03-7_09:05:01``: ``date "+%Y-%m-%-d_%H:%M:%S"`` of the *mtime* of the root, in
    the time zone of that initramfs. It says nothing about when the root was retired.
    """
    date, underscore, clock = text.partition("_")
    if not underscore:
        return None
    fields = date.split("-") + clock.split(":")
    widths = ((4, 4), (1, 2), (1, 2), (2, 2), (2, 2), (2, 2))
    return _numbers(fields, widths)


def _stamp(text: str) -> int | None:
    if len(text) != 20 or text[10] != "T" or text[19] != "Z":
        return None
    fields = text[:10].split("-") + text[11:19].split("-")
    return _numbers(fields, ((4, 4), (2, 2), (2, 2), (2, 2), (2, 2), (2, 2)))


def _numbers(fields: list[str], widths: tuple[tuple[int, int], ...]) -> int | None:
    if len(fields) != len(widths):
        return None
    numbers = []
    for field, (least, most) in zip(fields, widths, strict=True):
        number = values.number(field, most)
        if number is None or len(field) < least:
            return None
        numbers.append(number)
    return _seconds(*numbers)


def _seconds(year: int, month: int, day: int, hour: int, minute: int, second: int) -> int | None:
    """Seconds since 1970 of a UTC date, or ``None`` if there is no such date.

    (``calendar.timegm`` would import ``datetime`` and ``locale``.)
    """
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 60):
        return None
    # Days from civil: years begin in March, so that the leap day is the last one.
    shifted = year - (month <= 2)
    days = (
        365 * shifted
        + shifted // 4
        - shifted // 100
        + shifted // 400
        + (153 * ((month + 9) % 12) + 2) // 5
        + day
        - 719469
    )
    when = days * 86400 + hour * 3600 + minute * 60 + second
    if when < 0:
        return None
    found = time.gmtime(when)
    return when if (found.tm_year, found.tm_mon, found.tm_mday) == (year, month, day) else None
