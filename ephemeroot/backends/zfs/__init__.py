"""The installed half of the ZFS backend: what ``init`` proposes for a root on ZFS."""

from __future__ import annotations

import shlex

from ephemeroot.backends import commands
from ephemeroot.backends.commands import STORE
from ephemeroot.backends.contract import Backend, Layout, Step
from ephemeroot.backends.survey import Survey
from ephemeroot.backends.zfs import obstacles
from ephemeroot.config.fstab import INITRD, FstabLine
from ephemeroot.config.machine import command_line
from ephemeroot.config.toml_text import quote
from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.wipers.history import History
from ephemeroot.wipers.zfs.history import DatasetHistory


class Zfs(Backend):
    """See the contract for the methods."""

    @classmethod
    def proposal(cls, survey: Survey, line: FstabLine | None) -> Layout | None:
        if survey.type != "zfs":
            return None
        root = survey.inner
        parent = root.rpartition("/")[0]
        if not parent:
            raise Refused(
                f"the root is {root}, the pool itself: it can neither be rotated nor given a base",
                f"install the root in a dataset of its own, such as {root}/ROOT/NAME",
            )
        base, old_roots = f"{parent}/base", f"{parent}/old-roots"
        steps = (_by_name(survey), _boot(survey), _store(root, line))
        return Layout(
            wiper="zfs",
            root=f"the zfs on {survey.device}",
            store=STORE,
            explanation=(
                f"At every boot the dataset {root} will be a new clone of {base}@blank, "
                f"and the previous one moves to {old_roots}. What is declared below comes "
                f"from {STORE}."
            ),
            tables=(
                '[root]\nwiper = "zfs"\n\n[root.zfs]\nmode = "rotate"\n'
                f"dataset = {quote(root)}\n"
                f"base = {quote(base)}\n"
                f"old-roots = {quote(old_roots)}\n"
                "keep-days = 30                       # old roots go after that,\n"
                "keep-last = 3                        # but never the last three\n"
                f"{commands.MIN_FREE}"
            ),
            prepare=tuple(step for step in steps if step is not None),
            finish=(_base(shlex.quote(root), shlex.quote(base)),),
        )

    def obstacles(self, history: History) -> list[EphemerootError]:
        return obstacles.look(history) if isinstance(history, DatasetHistory) else []


def _by_name(survey: Survey) -> Step | None:
    """A root that is rotated must be booted by its name."""
    wanted = f"zfs:{survey.inner}"
    lines = [command_line(text).get("root") for _, text in survey.machine.command_lines]
    if lines and all(line in (wanted, f"ZFS={survey.inner}") for line in lines):
        return None
    return Step(
        "The root by its name, for the pool's bootfs is an object number and follows the old one:",
        (*commands.on_command_line(survey, f"root={wanted}"), "reboot"),
    )


def _boot(survey: Survey) -> Step | None:
    lost = commands.lost_boot_file(survey)
    if not lost:
        return None
    return Step(
        f"Kernels and boot loader off the root ({lost} is on it):",
        ("# a partition or a dataset of a boot pool at /boot, with its line in /etc/fstab",),
    )


def _store(root: str, line: FstabLine | None) -> Step | None:
    if line is not None:
        return commands.needed(line)
    dataset = f"{root.partition('/')[0]}/persistent"
    text = f"{dataset} {STORE} zfs defaults,{INITRD} 0 0"
    return Step(
        "A dataset for what persists, which the initramfs mounts:",
        (
            f"zfs create -o mountpoint=legacy {shlex.quote(dataset)}",
            f"mkdir -p {shlex.quote(STORE)}",
            commands.append(text),
            f"mount {shlex.quote(STORE)}",
        ),
    )


def _base(root: str, base: str) -> Step:
    """Sent, not cloned: a clone would keep the present root from ever being deleted."""
    return Step(
        "The base, a copy of the root as it is now; each fresh root is a clone of its snapshot:",
        (
            f"zfs snapshot {root}@blank",
            f"zfs send {root}@blank | zfs receive -u -o canmount=noauto -o mountpoint=none {base}",
        ),
    )
