"""The wipe: hand what is to be made fresh to its wiper, after every proof."""

from __future__ import annotations

from ephemeroot.hooks.operation import REQUIRED, Operation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.stage import Stage


class Wipe(Operation):
    """Make the root of ``target`` fresh.

    ``attribute`` is the wiper's class as ``module:attribute``. ``device`` and
    ``subvolume`` are what the configuration names; left out, the kernel command line
    decides; given and different from it, nothing is wiped.
    """

    KIND = "wipe"
    FIELDS = (
        ("target", "path", REQUIRED),
        ("wiper", "name", REQUIRED),
        ("attribute", "text", REQUIRED),
        ("device", "text", None),
        ("subvolume", "relative path", None),
        ("settings", "table", {}),
    )
    __slots__ = ("attribute", "device", "settings", "subvolume", "target", "wiper")
    target: str
    wiper: str
    attribute: str
    device: str | None
    subvolume: str | None
    settings: dict[str, object]

    def describe(self) -> str:
        raise NotImplementedError

    def execute(self, stage: Stage) -> str:
        raise NotImplementedError
