"""One entry of a history, and what kind it is."""

from __future__ import annotations

from ephemeroot.wipers import names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.wipers.names import Name

RETIRED = "retired"
RECIPE = "recipe"
FOREIGN = "foreign"


class OldRoot:
    """One entry of the history.

    ``text`` is its name in the directory and ``kind`` one of ``RETIRED`` (an old root
    with a ``name`` of Ephemeroot's), ``RECIPE`` (a subvolume named by the well-known shell
    recipe) and ``FOREIGN`` (everything else: listed, never touched). ``serial`` grows with
    each root that the filesystem ever made (btrfs: the subvolume's id) and identifies
    it under any name; 0 if there is none.
    """

    __slots__ = ("kind", "name", "serial", "text")

    def __init__(
        self,
        text: str,
        kind: str,
        serial: int = 0,
        name: Name | None = None,
    ) -> None:
        self.text = text
        self.kind = kind
        self.serial = serial
        self.name = name

    @property
    def label(self) -> str:
        """What people call it: the name it was retired under."""
        return str(self.name) if self.name is not None else self.text


def classify(text: str, serial: int) -> OldRoot:
    """The entry called *text* in old-roots; *serial* is its subvolume's id, 0 if it is not a
    subvolume.
    """
    name = names.parse(text)
    if serial and name is not None:
        return OldRoot(text, RETIRED, serial, name)
    if serial and names.parse_recipe(text) is not None:
        return OldRoot(text, RECIPE, serial)
    return OldRoot(text, FOREIGN, serial)


class Facts:
    """The facts about one old root, ``None`` for facts that are unknown or expensive.

    ``made`` is when it was made, in seconds since 1970. ``state`` is ``marks.NEW``,
    ``BOOT_COMPLETE`` or ``UNMARKED`` (no wipe made it). ``size`` is how many bytes it holds,
    ``exclusive`` how many of them its deletion would free.
    """

    __slots__ = ("exclusive", "made", "size", "state")

    def __init__(
        self,
        *,
        made: float | None = None,
        state: str = "",
        size: int | None = None,
        exclusive: int | None = None,
    ) -> None:
        self.made = made
        self.state = state
        self.size = size
        self.exclusive = exclusive
