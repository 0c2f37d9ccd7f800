"""The installed half of the overlay backend."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from ephemeroot.backends import commands, swap
from ephemeroot.backends.commands import STORE
from ephemeroot.backends.contract import Backend, Layout, Rehearsal, Step
from ephemeroot.backends.survey import Survey
from ephemeroot.config.syntax.toml_text import quote
from ephemeroot.hooks.operations.volumes import SUBDIRECTORY
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.linux import mounts
from ephemeroot.linux.mountinfo import Mount
from ephemeroot.machine.fstab import FstabLine
from ephemeroot.machine.root import Root
from ephemeroot.wipers import overlay
from ephemeroot.wipers.contract import Boot

_LOCAL = ("ext4", "ext3", "xfs", "btrfs", "f2fs")
"""Filesystems on which a store can be beside something else."""


class Overlay(Backend):
    """See the contract for the methods."""

    GENERAL = True
    WITHOUT_BASE = (
        "run 'ephemeroot next-boot keep', reboot, and change the installed root below the overlay"
    )

    def forgets(self, mount: Mount | None) -> bool:
        """A boot of the installed root itself has no layer, so its changes persist."""
        return mount is None or mount.fstype == "overlay"

    @classmethod
    def proposal(cls, survey: Survey, line: FstabLine | None) -> Layout | None:
        host = None if line is not None else _host(survey)
        store = f"{host.mount_point}{STORE}" if host is not None else STORE
        kept = _kept(survey, store if line is None and host is None else None)
        steps = (_store(line, host, store), *_swap(survey, store, line or host))
        written = f" ({', '.join(kept)} excepted)" if kept else ""
        return Layout(
            wiper="overlay",
            root=f"the {survey.type} on {survey.device}",
            store=store,
            explanation=(
                "At every boot a new layer is above the installed root, which is not "
                f"changed{written}. The paths declared below come from {store}. To change the "
                "installation itself, for example to upgrade it, run 'ephemeroot next-boot keep' "
                "and reboot."
            ),
            tables=(
                '[root]\nwiper = "overlay"\n\n[root.overlay]\n'
                f"{commands.device_key(survey)}"
                f"type = {quote(survey.type)}\n"
                f"{_layers(store, line, host)}"
                f"{''.join(_volume(survey, path) for path in kept)}"
            ),
            prepare=tuple(step for step in steps if step is not None),
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
            self.notes.append("the layer is in memory, and old layers are not rehearsed")
        settings["volume"] = None
        Rehearsed.root = str(self.root)
        attribute = f"{__name__}:{Rehearsed.__name__}"
        return self.changed(settings, attribute=attribute, device=self.place.device)


def _host(survey: Survey) -> FstabLine | None:
    """A volume that exists already and can have the store on it, the first in fstab."""
    for line in survey.lines:
        parts = line.mount_point.strip("/").split("/")
        if line.type in _LOCAL and parts[0] not in ("boot", "efi", "usr", "tmp", "media", "mnt"):
            if not {"ro", "noauto", "bind"} & set(line.options):
                return line
    return None


def _kept(survey: Survey, store: str | None) -> list[str]:
    """Directories of the installed root that no layer covers: boot files, kernels with their
    modules, and the *store*, if that has no filesystem of its own.
    """
    found = ["/boot"] if commands.lost_boot_file(survey) else []
    root = survey.machine.root
    # Where /usr is merged, /lib is a link.
    merged = os.path.islink(os.path.join(root, "lib"))
    modules = "/usr/lib/modules" if merged else "/lib/modules"
    if os.path.isdir(os.path.join(root, modules.lstrip("/"))) and not survey.is_on_volume(modules):
        found.append(modules)
    return [*found, *([store] if store is not None else [])]


def _layers(store: str, line: FstabLine | None, host: FstabLine | None) -> str:
    """Where the layers are: in memory, unless the store is on a filesystem beside the root."""
    if line is None and host is None:
        return (
            "# The layer is in memory, and no old layer is kept. To keep them, give the store a\n"
            '# filesystem of its own and name it here: volume = "/persistent"\n'
            '# size = "50%"                       # of the memory, for the layer\n'
        )
    return (
        f"volume = {quote(host.mount_point if host else store)}"
        "  # where the layers are kept; in memory if left out\n"
        "keep-days = 30                       # old layers are deleted after that,\n"
        "keep-last = 3                        # but never the last three\n"
        f"{commands.MIN_FREE}"
    )


def _volume(survey: Survey, path: str) -> str:
    """The table that makes the directory *path* of the installed root a volume."""
    why = {"/boot": "# the kernels that boot the machine, and their modules\n",
           STORE: "# the store, a directory of the installed root\n"}  # fmt: skip
    return (
        f"\n{why.get(path, '')}[[volumes]]\nmount-point = {quote(path)}\n"
        f"device = {quote(survey.device)}\ntype = {quote(survey.type)}\n"
        f"options = [{quote(SUBDIRECTORY + path.lstrip('/'))}]\n"
    )


def _swap(survey: Survey, store: str, volume: FstabLine | None) -> Iterator[Step]:
    """No swap file can be activated in an overlay, not even one that the layer below has: it moves
    beside the *store*, to the *volume* of that or to the installed root's own directory.
    """
    for path, size in swap.files(survey):
        target = f"{volume.mount_point if volume is not None else store}/{path.rpartition('/')[2]}"
        old, new = shlex.quote(path), shlex.quote(target)
        moved = [f"mv {old} {new}"]  # a rename: its extents stay
        if volume is not None:
            moved = [f"rm {old}", f"touch {new}"]
            moved += [f"chattr +C {new}"] if volume.type == "btrfs" else []
            moved += [f"chmod 600 {new}", f"fallocate -l {size} {new}", f"mkswap {new}"]
        yield Step(
            f"Move swap off the root ({path} is on it), which an overlay does not support:",
            (
                f"! grep -q '^{path} ' /proc/swaps || swapoff {old}",
                *moved,
                f"sed -i -E 's|^{re.escape(path)}(\\s)|{target}\\1|' /etc/fstab",
                f"swapon {new}",
            ),
        )


def _store(line: FstabLine | None, host: FstabLine | None, store: str) -> Step | None:
    """A place for the store: a filesystem that exists, else a directory of the installed root."""
    if line is not None:
        return commands.needed(line)
    make = f"mkdir -p -m 0755 {shlex.quote(store)}"
    if host is None:
        return Step("The store, a directory of the installed root:", (make,))
    step = commands.needed(host)
    return Step(
        f"The store, on the volume {host.mount_point}:",
        (*(step.commands if step else ()), make),
    )
