"""What ``init`` proposes for a machine whose root is on btrfs."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass

from ephemeroot.backends import commands, swap
from ephemeroot.backends.commands import STORE
from ephemeroot.backends.contract import Layout, Step
from ephemeroot.backends.survey import Survey
from ephemeroot.config.syntax.toml_text import quote
from ephemeroot.errors import Refused
from ephemeroot.machine.facts import command_line
from ephemeroot.machine.fstab import INITRD, FstabLine
from ephemeroot.wipers.btrfs import subvolumes

_TOP = "/mnt"
_SWAP = "/swap/swapfile"
_SUBVOLUME = ("subvol", "subvolid")


@dataclass(frozen=True, slots=True)
class Places:
    """Subvolumes and directories, from the top level. ``root`` differs from the survey's if it
    must become a subvolume of its own first; ``store`` is the store's subvolume.
    """

    root: str
    base: str
    old_roots: str
    old_bases: str
    store: str


def of(survey: Survey, line: FstabLine | None) -> Layout:
    """The proposal; *line* is the store's in fstab. Raises ``Refused``."""
    _require_subvolume(survey)
    places = _places(survey, line)
    steps = (
        _own_root(survey, places),
        _by_name(survey, places),
        _boot(survey, places),
        _store(survey, places, line),
        _swap(survey, places),
    )
    where = f"the btrfs on {survey.device}"
    return Layout(
        wiper="btrfs",
        root=f"the subvolume {survey.inner} of {where}" if survey.inner else f"all of {where}",
        store=STORE,
        explanation=(
            f"At every boot the subvolume {places.root} will be a new snapshot of {places.base}, "
            f"and the previous one moves to {places.old_roots}. Install programs into the base. "
            f"The paths declared below come from {STORE}."
        ),
        tables=(
            '[root]\nwiper = "btrfs"\n\n[root.btrfs]\n'
            f"{commands.device_key(survey)}"
            f"base = {quote(places.base)}\n"
            f"old-roots = {quote(places.old_roots)}\n"
            f"old-bases = {quote(places.old_bases)}         # for 'ephemeroot base rollback'\n"
            "keep-days = 30                       # old roots are deleted after that,\n"
            "keep-last = 3                        # but never the last three\n"
            f"{commands.MIN_FREE}"
        ),
        prepare=tuple(step for step in steps if step is not None),
        # Last: it must contain all earlier changes.
        finish=(
            Step(
                "The base, a copy of the root as it is now; each fresh root is a snapshot of it:",
                ("ephemeroot base create",),
            ),
        ),
    )


def _require_subvolume(survey: Survey) -> None:
    """Raise ``Refused`` for a plain directory that is bound to where the root is."""
    root = survey.machine.root
    if survey.machine.root_mount is not None and os.stat(root).st_ino != subvolumes.ROOT_INODE:
        raise Refused(
            f"the root is the directory {survey.inner} of its btrfs, not a subvolume",
            "only a subvolume can be exchanged: list the subvolumes with 'btrfs subvolume list /'",
        )


def _places(survey: Survey, line: FstabLine | None) -> Places:
    root = survey.inner
    if not root or "/.snapshots/" in f"/{root}/":
        # The top level cannot be exchanged, and snapper's snapshots are snapper's to delete.
        root = "@ephemeral" if "@" in root or _others(survey) else "ephemeral"
    parent, _, name = root.rpartition("/")
    beside = f"{parent}/" if parent else ""
    at = "@" if name.startswith("@") else ""
    # Of one root alone: another system on this filesystem has a history of its own.
    of_it = {"root": "", "@": "@"}.get(name, f"{name}-")
    subvolume = (line.option("subvol") or "").strip("/") if line is not None else ""
    return Places(
        root=root,
        base=f"{root}-base",
        old_roots=f"{beside}{of_it}old_roots",
        old_bases=f"{beside}{of_it}old_bases",
        store=subvolume or f"{beside}{at}persistent",
    )


def _others(survey: Survey) -> bool:
    """Whether other subvolumes are called @something, as distributions do."""
    return any((line.option("subvol") or "").strip("/").startswith("@") for line in survey.lines)


def _own_root(survey: Survey, places: Places) -> Step | None:
    """A root that cannot be exchanged: the top level, or a snapshot of snapper's."""
    if survey.inner == places.root:
        return None
    source = f"{_TOP}/{survey.inner}".rstrip("/")
    line = survey.root_line
    words = _words(survey, places)
    renamed = (
        [commands.replaced(line, line.with_subvolume(places.root), f"{_TOP}/{places.root}")]
        if line
        else []
    )
    return Step(
        f"A subvolume for the root alone, {places.root}, and a boot into it; the present one "
        f"({survey.inner or 'the top level'}) stays as it is:",
        (
            # Before: the boot loader's settings are in the snapshot too.
            *commands.set_on_command_line(survey, words),
            *_mounted_top(
                survey,
                _unless_there(places.root, f"btrfs subvolume snapshot {shlex.quote(source)}"),
                *renamed,
            ),
            # Afterwards, when the boot loader can find the new files.
            *commands.update_boot_loader(survey),
            "reboot",
        ),
    )


def _by_name(survey: Survey, places: Places) -> Step | None:
    """The root is booted, and in fstab, by the name that the fresh one will have."""
    if survey.inner != places.root:
        return None
    steps: list[str] = []
    line = survey.root_line
    if line is not None and line.option("subvolid") is not None:
        steps.append(
            "sed -i -E '/^[^#]\\S*\\s+\\/\\s/ { s/,subvolid=[0-9]+//; s/subvolid=[0-9]+,?// }' "
            "/etc/fstab"
        )
    by_id = any("subvolid=" in ",".join(command_line(text).root_flags())
                for _, text in survey.machine.command_lines)  # fmt: skip
    if by_id or not survey.named:
        steps += [*_command_line(survey, places), "reboot"]
    if not steps:
        return None
    return Step("The root by its name, because its number changes at every boot:", tuple(steps))


def _command_line(survey: Survey, places: Places) -> list[str]:
    return commands.on_command_line(survey, _words(survey, places))


def _words(survey: Survey, places: Places) -> str:
    """The other rootflags= are kept, because some initramfs use only the last parameter."""
    lines = [command_line(text).root_flags() for _, text in survey.machine.command_lines]
    others = [o for o in (lines[0] if lines else []) if o.partition("=")[0] not in _SUBVOLUME]
    flags = ",".join([*others, f"subvol={places.root}"])
    return f"rootflags={flags}"


def _boot(survey: Survey, places: Places) -> Step | None:
    """The step that moves kernel and boot loader off the filesystem that is wiped."""
    lost = commands.lost_boot_file(survey)
    if not lost or any(line.mount_point == "/boot" for line in survey.lines):
        return None
    parent, _, name = places.root.rpartition("/")
    subvolume = f"{parent}/" if parent else ""
    subvolume += "@boot" if name.startswith("@") else "boot"
    inner = sorted(
        line.mount_point for line in survey.lines if line.mount_point.startswith("/boot/")
    )
    steps = [
        *(f"umount {shlex.quote(point)}" for point in reversed(inner)),
        *_mounted_top(
            survey,
            _created(subvolume),
            f"cp -a --reflink=auto /boot/. {_top(subvolume)}/",
        ),
        # Not every init sorts fstab by mount point: any mount in /boot comes after it.
        commands.insert(
            f"{survey.device} /boot btrfs subvol={subvolume} 0 0",
            next((line for line in survey.lines if line.mount_point in inner), None),
        ),
        "mount /boot",
        *(f"mount {shlex.quote(point)}" for point in inner),
    ]
    if survey.boot_loader == "grub":
        # GRUB's first stage names the place where it looks for the rest of it.
        steps += [*commands.install_grub(survey), commands.update_grub(survey)]
    return Step(
        f"Move kernels and boot loader off the root ({lost} is on it), into a subvolume of their "
        "own; or use a partition for /boot:",
        tuple(steps),
    )


def _store(survey: Survey, places: Places, line: FstabLine | None) -> Step | None:
    """The store's subvolume, its line in fstab, mounted."""
    if line is not None:
        return commands.needed(line)
    text = f"{survey.device} {STORE} btrfs subvol={places.store},noatime,{INITRD} 0 0"
    return Step(
        "A subvolume for persistent paths, which the initramfs mounts:",
        (
            *_mounted_top(survey, _created(places.store)),
            f"mkdir -p {shlex.quote(STORE)}",
            commands.append(text),
            f"mount {shlex.quote(STORE)}",
        ),
    )


def _swap(survey: Survey, places: Places) -> Step | None:
    """A swap file in the root would be in the base and in each new root, and could be activated in
    none: its extents are shared. One line in fstab is enough: a second file is as well one of that
    subvolume.
    """
    path, size = next(swap.files(survey), ("", 0))
    if not path:
        return None
    parent, _, name = places.root.rpartition("/")
    subvolume = (f"{parent}/" if parent else "") + ("@swap" if name.startswith("@") else "swap")
    quoted = shlex.quote(path)
    return Step(
        f"Move swap off the root ({path} is on it), into a subvolume of its own; or use a "
        "partition:",
        (
            f"! grep -q '^{path} ' /proc/swaps || swapoff {quoted}",
            f"rm {quoted}",
            *_mounted_top(survey, _created(subvolume)),
            "mkdir -p /swap",
            commands.append(f"{survey.device} /swap btrfs subvol={subvolume},noatime 0 0"),
            "mount /swap",
            f"touch {_SWAP}",
            f"chattr +C {_SWAP}",
            f"chmod 600 {_SWAP}",
            f"fallocate -l {size} {_SWAP}",
            f"mkswap {_SWAP}",
            # Its line in fstab, with whatever options it has.
            f"sed -i -E 's|^{re.escape(path)}(\\s)|{_SWAP}\\1|' /etc/fstab",
            f"swapon {_SWAP}",
            *_resume(survey),
        ),
    )


def _resume(survey: Survey) -> list[str]:
    """Hibernation finds a swap file by a number that is another one now."""
    if any("resume_offset=" in text for _, text in survey.machine.command_lines):
        number = f"btrfs inspect-internal map-swapfile -r {_SWAP}"
        return [f"# put resume_offset=$({number}) on the kernel command line"]
    return []


def _mounted_top(survey: Survey, *inside: str) -> tuple[str, ...]:
    return (f"mount -t btrfs -o subvolid=5 {survey.device} {_TOP}", *inside, f"umount {_TOP}")


def _created(path: str) -> str:
    return _unless_there(path, "btrfs subvolume create")


def _unless_there(path: str, command: str) -> str:
    """The *command* with the subvolume *path* as its last argument, to be repeated
    after an interruption: a second snapshot would be made inside of the first.
    """
    return f"test -e {_top(path)} || {command} {_top(path)}"


def _top(path: str) -> str:
    return shlex.quote(f"{_TOP}/{path}")
