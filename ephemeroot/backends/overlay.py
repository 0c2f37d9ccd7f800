"""The installed half of the overlay backend."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from ephemeroot.backends import commands, swap
from ephemeroot.backends.commands import STORE
from ephemeroot.backends.contract import Backend, Layout, Rehearsal, Step
from ephemeroot.backends.survey import Survey
from ephemeroot.config.fstab import INITRD, FstabLine
from ephemeroot.config.root import Root
from ephemeroot.config.toml_text import quote
from ephemeroot.hooks.wipe import Wipe
from ephemeroot.linux import mounts
from ephemeroot.wipers import overlay
from ephemeroot.wipers.contract import Boot

_LABEL = "persistent"
"""Of the store's filesystem, where one has to be made."""

_LOCAL = ("ext4", "ext3", "xfs", "btrfs", "f2fs")
"""Filesystems on which a store can be beside something else."""


class Overlay(Backend):
    """See the contract for the methods."""

    GENERAL = True

    @classmethod
    def proposal(cls, survey: Survey, line: FstabLine | None) -> Layout | None:
        host = None if line is not None else _host(survey)
        store = f"{host.mount_point}{STORE}" if host is not None else STORE
        step = _filesystem(survey, line, host, store)
        return Layout(
            wiper="overlay",
            root=f"the {survey.type} on {survey.device}",
            store=store,
            explanation=(
                "At every boot a new layer lies above the installed root, which stays as it is, "
                f"read-only. What is declared below comes from {store}. To change the "
                "installation itself, boot with ephemeroot.wipe=no."
            ),
            tables=(
                '[root]\nwiper = "overlay"\n\n[root.overlay]\n'
                f"{commands.device_key(survey)}"
                f"type = {quote(survey.type)}\n"
                f"volume = {quote(host.mount_point if host else store)}"
                "  # where the layers are kept\n"
                "keep-days = 30                       # old layers go after that,\n"
                "keep-last = 3                        # but never the last three\n"
                f"{commands.MIN_FREE}"
            ),
            prepare=(*((step,) if step is not None else ()), *_swap(survey)),
        )

    def rehearsal(self, wipe: Wipe, place: Root, root: Path, notes: list[str]) -> Rehearsal:
        return InMemory(wipe, place, root, notes)


class Rehearsed(overlay.Overlay):
    """The overlay wiper over the root as it is mounted: its device cannot be mounted read-only
    a second time while it is written to.
    """

    __slots__ = ()

    root = "/"

    def lower(self, boot: Boot) -> int:
        return mounts.clone_at(self.root, read_only=True)


class InMemory(Rehearsal):
    """A layer in memory above the root as it is mounted."""

    def prepare(self, private: str) -> Wipe:
        settings = dict(self.wipe.settings)
        if settings.get("volume"):
            self.notes.append("the layer is in memory, and the old layers are not tried")
        settings["volume"] = None
        Rehearsed.root = str(self.root)
        attribute = f"{__name__}:{Rehearsed.__name__}"
        return self.changed(settings, attribute=attribute, device=self.place.device)


def _host(survey: Survey) -> FstabLine | None:
    """A volume that is there already and can have the store on it, the first in fstab."""
    for line in survey.lines:
        parts = line.mount_point.strip("/").split("/")
        if line.type in _LOCAL and parts[0] not in ("boot", "efi", "usr", "tmp", "media", "mnt"):
            if not {"ro", "noauto", "bind"} & set(line.options):
                return line
    return None


def _swap(survey: Survey) -> Iterator[Step]:
    """No swap file can be activated in an overlay, not even one that the layer below has."""
    for path, _ in swap.files(survey):
        yield Step(
            f"Swap off the root ({path} is on it), which an overlay does not support:",
            ("# make a partition for swap or a file on a volume, and change its fstab line",),
        )


def _filesystem(
    survey: Survey, line: FstabLine | None, host: FstabLine | None, store: str
) -> Step | None:
    """A place for the store beside an installed root that stays as it is."""
    if line is not None:
        return commands.needed(line)
    if host is not None:
        step = commands.needed(host)
        make = f"mkdir -p -m 0755 {shlex.quote(store)}"
        return Step(
            f"The store, on the volume {host.mount_point}:",
            (*(step.commands if step else ()), make),
        )
    steps = [
        f"mkfs.ext4 -L {_LABEL} DEVICE    # a partition or logical volume that is free",
        f"mkdir -p {store}",
        commands.append(f"LABEL={_LABEL} {store} ext4 noatime,{INITRD} 0 0"),
        f"mount {store}",
    ]
    if "/mapper/" in survey.device or survey.has("sbin/lvm") or survey.has("usr/sbin/lvm"):
        steps.insert(0, "# with LVM: lvcreate -n persistent -L 20G VOLUME-GROUP")
    return Step("A filesystem for what persists, for the root itself is read-only:", tuple(steps))
