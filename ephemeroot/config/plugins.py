"""The installed wipers, found by entry point.

A look-up imports the module of the wiper, which imports only the modules allowed in the initramfs,
and never the library that it uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ephemeroot.config.syntax import clean, kinds, quantities
from ephemeroot.config.syntax.problem import Mistake
from ephemeroot.config.syntax.settings import VOLUME, WHAT_TO_WIPE, Setting, Table
from ephemeroot.linux import values
from ephemeroot.machine import entry_points
from ephemeroot.wipers.contract import API, Option, Wiper

GROUP = "ephemeroot.wipers"

KINDS: dict[str, kinds.Kind] = {
    "string": kinds.Text(),
    "path": kinds.InnerPath(),
    "integer": kinds.Integer(),
    "days": kinds.Days(),
    "boolean": kinds.Boolean(),
    "size": quantities.Size(),
    "amount": quantities.Amount(),
    "mode": kinds.Mode(),
    "strings": kinds.Strings(),
    "volume": kinds.AbsolutePath(),
    "dataset": kinds.Dataset(),
}
"""The syntax of each kind of option that a wiper can have (``linux/values.py``)."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """An installed wiper; ``attribute`` is its name in the plan."""

    name: str
    attribute: str
    wiper: type[Wiper]

    def table(self) -> Table:
        """The keys of the wiper's own table."""
        return Table(tuple(_setting(option) for option in self.wiper.OPTIONS))

    def root_table(self) -> Table:
        """The keys of ``[root.<wiper>]``: those of the wiper, and the device and subvolume."""
        own = self.table()
        if not self.wiper.ON_DEVICE:
            return own
        what = tuple(s for s in WHAT_TO_WIPE if own.setting(s.name) is None)
        return Table((*what, *own.settings))

    def paths(self, settings: Mapping[str, object]) -> dict[str, str]:
        """The *settings* that are paths on the wiped filesystem, if they are set."""
        names = [option.name for option in self.wiper.OPTIONS if option.kind == "path"]
        found = {name: settings.get(name) for name in names}
        return {name: path for name, path in found.items() if isinstance(path, str) and path}

    def volumes(self, settings: Mapping[str, object]) -> dict[str, str]:
        """The *settings* that name a volume, if they are set."""
        names = [option.name for option in self.wiper.OPTIONS if option.kind == "volume"]
        return {name: str(settings[name]) for name in names if settings.get(name)}

    def starts_empty(self, settings: Mapping[str, object]) -> bool:
        """Whether the new root has only a skeleton, so that /usr must be a volume."""
        return self.wiper.starts_empty(dict(settings))


def _setting(option: Option) -> Setting:
    if isinstance(option.kind, tuple):
        kind: kinds.Kind = kinds.Choice(option.kind)
    elif option.kind in KINDS:
        kind = KINDS[option.kind]
    else:
        raise Mistake(f"its option {option.name} is of the unknown kind {option.kind!r}")
    if not option.fits(option.default):
        wanted = values.describe(option.kind)
        raise Mistake(f"the default of its option {option.name} is not of the kind {wanted}")
    return Setting(option.name, kind, option.help, option.default)


def names() -> list[str]:
    """The names of all installed wipers, sorted."""
    return sorted({entry.name for entry in entry_points.declared(GROUP)})


def find(name: str) -> Plugin:
    """The wiper *name*. Raises ``Mistake`` if it is missing or cannot be used."""
    reference = entry_points.find(GROUP, name, "a wiper", Mistake)
    if not reference:
        raise Mistake(f"there is no wiper {name!r}", clean.meant(name, names()))
    wiper = entry_points.load(reference, Wiper, f"the wiper {name!r}", Mistake)
    if wiper.API != API:
        raise Mistake(
            f"cannot use the wiper {name!r}: it was written for version {wiper.API} of the "
            f"contract, but this program has version {API}",
            f"install a version of the wiper for version {API}",
        )
    plugin = Plugin(name, reference, wiper)
    plugin.table()
    return plugin


def volume_table(plugin: Plugin | None) -> Table:
    """The keys of a volume's ``wipe`` table, with those of the wiper it names."""
    own = plugin.table().settings if plugin else ()
    wiper = Setting("wiper", kinds.Text(), "the wiper of the volume", required=True)
    return Table((wiper, *own))


VOLUME_WITH_WIPE = Table((
    *VOLUME.settings,
    Setting("wipe", volume_table(None), "wipe this volume at every boot too"),
))  # fmt: skip
