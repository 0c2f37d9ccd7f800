"""Several wipes on one filesystem: their subvolumes and directories must not overlap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

from ephemeroot.config import volumes
from ephemeroot.config.model import Wiping
from ephemeroot.config.syntax import clean

_SHARED = ("base", "old-bases")


@dataclass(frozen=True, slots=True)
class Wiped:
    """A wiped root or volume, with its ``device`` and ``subvolume`` if they are known; ``what`` is
    its name in messages.
    """

    wiping: Wiping
    device: str | None
    subvolume: str | None
    what: str

    @property
    def subvolumes_of(self) -> str:
        """See ``Wiper.SUBVOLUMES_OF``."""
        plugin = self.wiping.plugin
        return plugin.wiper.SUBVOLUMES_OF if plugin is not None else ""

    def paths(self) -> dict[str, str]:
        """Its subvolume and the paths among its settings, by name."""
        found = {"the subvolume": self.subvolume} if self.subvolume else {}
        if self.wiping.plugin is not None:
            found.update(self.wiping.plugin.paths(self.wiping.settings))
        return {name: path.strip("/") for name, path in found.items() if path}


def check(wiped: Sequence[Wiped], report: Callable[[Wiped, str, str], None]) -> None:
    """Call *report* with the later one, a reason and a hint for each two that overlap.

    Several may share a base and its old bases, but no other path. Devices that cannot be compared
    here are treated as one filesystem.
    """
    for earlier, later in combinations(wiped, 2):
        if later.wiping.plugin is None or later.wiping.plugin.wiper.EPHEMERAL:
            continue
        if not (earlier.device and later.device) or volumes.same_device(
            earlier.device, later.device
        ):
            _compare(earlier, later, report)


def _compare(earlier: Wiped, later: Wiped, report: Callable[[Wiped, str, str], None]) -> None:
    for name, path in later.paths().items():
        for other, elsewhere in earlier.paths().items():
            if name == other and name in _SHARED:
                continue
            if not (clean.is_below(path, elsewhere) or clean.is_below(elsewhere, path)):
                continue
            if name == other and path == elsewhere:
                reason = f"{name} ({path}) is the same as that of {earlier.what}"
            else:
                reason = f"{name} ({path}) and {other} ({elsewhere}) of {earlier.what} "
                reason += "overlap"
            report(later, reason, "name a separate path for each")
