"""The temporary name of a root while it is between its place and the history.

``.<root>.ephemeroot.[<system>.]<name>[.ro].<uuid>``: the beginning of the id of the system that
owns it, under which name the previous root will be retired, whether it was read-only and so must be
again, and its UUID (``none``: there was no previous root). After a power cut, such a name has all
that the interrupted run knew: the subvolume with that UUID is the previous root, anything else
is a fresh one.
"""

from __future__ import annotations

import binascii
import os

from ephemeroot.wipers import names
from ephemeroot.wipers.oldroot import RETIRED, OldRoot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.wipers.names import Name

_LONGEST = 255  # bytes in a name (NAME_MAX)
_REST = 110  # the rest after the root's own name is shorter than this

_SYSTEM = 8  # characters of a system's id
_DIGITS = frozenset("0123456789abcdef")


class Leftover:
    """A temporary name, taken apart. ``text`` is all of it; ``uuid`` may be ``None``. ``system``
    is the beginning of the system's id, empty for a system without one.
    """

    __slots__ = ("name", "read_only", "root", "system", "uuid")

    def __init__(
        self, root: str, name: Name, uuid: str | None, *, read_only: bool, system: str = ""
    ) -> None:
        self.system = system[:_SYSTEM]
        self.root = root
        self.name = name
        self.uuid = uuid
        self.read_only = read_only

    @property
    def text(self) -> str:
        flag = ".ro" if self.read_only else ""
        system = f"{self.system}." if self.system else ""
        return f"{prefix(self.root)}{system}{self.name}{flag}.{self.uuid or 'none'}"

    def is_of(self, system: str) -> bool:
        """Whether it is of the *system* with that id, or of one without an id."""
        return self.system in ("", system[:_SYSTEM])

    def renamed(self, name: Name) -> Leftover:
        """The same one, to be retired as *name*."""
        return Leftover(self.root, name, self.uuid, read_only=self.read_only, system=self.system)


class InPlace(OldRoot):
    """An old root that stays beside the root, under the temporary name *leftover*."""

    __slots__ = ("leftover",)

    def __init__(self, leftover: Leftover, serial: int) -> None:
        super().__init__(leftover.text, RETIRED, serial, leftover.name)
        self.leftover = leftover


def prefix(root: str) -> str:
    """How the temporary names of the root called *root* (no slashes) begin."""
    raw = os.fsencode(root)
    if len(raw) > _LONGEST - _REST:
        raw = raw[: _LONGEST - _REST - 9] + b"~%08x" % binascii.crc32(raw)
    return f".{os.fsdecode(raw)}.ephemeroot."


def parse(root: str, text: str) -> Leftover | None:
    """The ``Leftover`` called *text* of the root called *root*, or ``None``."""
    start = prefix(root)
    if not text.startswith(start):
        return None
    rest, _, uuid = text[len(start) :].rpartition(".")
    system, dot, name_text = rest.partition(".")
    if dot and len(system) == _SYSTEM and not set(system) - _DIGITS:
        rest = name_text
    else:
        system = ""
    read_only = rest.endswith(".ro")
    name = names.parse(rest.removesuffix(".ro"))
    if name is None:
        return None
    found = Leftover(
        root, name, None if uuid == "none" else uuid, read_only=read_only, system=system
    )
    is_uuid = [len(part) for part in uuid.split("-")] == [8, 4, 4, 4, 12]
    return found if (uuid == "none" or is_uuid) and found.text == text else None
