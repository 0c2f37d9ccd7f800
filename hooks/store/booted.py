"""Which roots the last boots used, recorded in the stores.

Needed where boots alternate between roots (``Wiper.LAYERED``): neither a clock nor the newest layer
shows which root the previous boot used, which may be the installed root, or a layer in memory.
"""

from __future__ import annotations

import errno

from ephemeroot.errors import EphemerootError
from ephemeroot.hooks import records
from ephemeroot.hooks.records import STATE
from ephemeroot.hooks.report import WARNING
from ephemeroot.hooks.stage import FALLBACK, WIPED
from ephemeroot.linux import documents, mountinfo
from ephemeroot.wipers import history

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.stage import Stage

    Boots = list[dict[str, dict[str, str]]]

RECORD = f"{STATE}/booted"
"""The record in a store: a list of ``Boot.booted`` for each system, by its id."""

VERSION = 1

_FORM = {"version": int, "systems": {str: [{str: {str: str}}]}}

_MOST = 32
"""Entries for one system. Incomplete boots are skipped, back to a complete one."""


def read(stage: Stage) -> Boots:
    """The roots that the last boots of this system used, the newest first; empty if that is not
    known.
    """
    for _, store in stage.stores():
        found = _systems(store).get(stage.plan.system)
        if found:
            return found
    return []


def was_kept(stage: Stage) -> bool:
    """Whether the boot before used the root that boots if nothing is made fresh."""
    found = read(stage)
    return bool(found) and "kept" in found[0]


def open_layer_behind(stage: Stage) -> int:
    """What the boot before wrote, if that has not been handed over and is in a layer that is not
    this boot's: the open directory of the layer; -1 if there is none.
    """
    wipe = stage.plan.root_wipe()
    if wipe is None or not (stage.was_kept() or fell_back(stage)):
        return -1
    wiper = wipe.load()
    mount = mountinfo.mounted_at(stage.target) if wiper.LAYERED else None
    if mount is None:
        return -1
    device = mount.source
    subvolume: str | None = mount.root.strip("/")
    facts = (stage.recall(WIPED) or {}).get(wipe.target)
    if isinstance(facts, dict):  # the mounted root is the layer in memory
        device = str(facts.get("device"))
        subvolume = stage.cmdline.named_subvolume()
    installed = history.Installed(
        device=device,
        private=stage.private("wiper"),
        live=stage.target,
        subvolume=subvolume,
        volumes={volume.mount_point: stage.volume(volume.name) for volume in stage.plan.volumes()},
        system=stage.plan.system,
    )
    try:
        return wiper.open_layer(installed, read(stage))
    except (EphemerootError, OSError) as error:
        stage.report.problem(f"cannot read the layer of the previous boot: {error}",
                             level=WARNING)  # fmt: skip
        return -1


def fell_back(stage: Stage) -> bool:
    """Whether this boot's layer is in memory for lack of another, and the root of the boot before
    has not been handed over.
    """
    facts = (stage.recall(WIPED) or {}).get("/")
    return isinstance(facts, dict) and FALLBACK in facts and not facts.get("handed-over")


def remember(stage: Stage) -> None:
    """Record which root this boot uses. Without the record the next boot seeds from the newest
    layer: a problem, and no reason to stop this boot.
    """
    used = _used(stage)
    if used is None:
        return
    for path, store in stage.stores():
        systems = _systems(store)
        known = systems.get(stage.plan.system, [])
        if known[:1] == [used]:
            continue
        systems[stage.plan.system] = own = [used, *known][:_MOST]
        try:
            _write(store, systems, own)
        except OSError as error:
            stage.report.problem(
                f"{path}: cannot record which root this boot uses: {error.strerror}",
                level=WARNING,
            )


def _write(store: int, systems: dict[str, Boots], own: Boots) -> None:
    """Write the record. In a full store it is written over the last one, without the oldest boots
    in *own* if it does not fit: the next boot must not seed from the root that the last record
    names. Raises ``OSError``.
    """
    try:
        records.write(store, RECORD, _content(systems))
        return
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        full = error
    while own:
        try:
            records.overwrite(store, RECORD, _content(systems))
            return
        except OSError:
            own.pop()
    raise full


def _content(systems: dict[str, Boots]) -> bytes:
    return documents.dump({"version": VERSION, "systems": systems}) + b"\n"


def _used(stage: Stage) -> dict[str, dict[str, str]] | None:
    """What this boot uses as its root; ``None`` if that is not known, or need not be."""
    wipe = stage.plan.root_wipe()
    record = stage.recall(WIPED)
    if wipe is None or record is None:
        return None
    wiper = wipe.load()
    if not wiper.LAYERED:
        return None
    facts = record.get(wipe.target)
    if not isinstance(facts, dict):
        return {"kept": wiper.identify_mounted(stage.target)}
    if fell_back(stage):
        return None  # the root of the boot before is still to be handed over
    return {"fresh": facts["fresh"]}


def _systems(store: int) -> dict[str, Boots]:
    try:
        content = documents.parse(records.read_usable(store, RECORD) or b"{}")
    except ValueError:
        return {}
    if not documents.fits(content, _FORM) or content.get("version") != VERSION:
        return {}
    systems: dict[str, Boots] = content.get("systems", {})
    return {
        system: [boot for boot in boots if boot.keys() & {"kept", "fresh"}]
        for system, boots in systems.items()
    }
