"""Commands that the steps of several backends' proposals are made of."""

from __future__ import annotations

import shlex

from ephemeroot.backends.contract import Step
from ephemeroot.backends.survey import Survey
from ephemeroot.config.fstab import FstabLine
from ephemeroot.config.toml_text import quote

STORE = "/persistent"

MIN_FREE = 'min-free = "10%"                     # with less free space the oldest go early\n'
"""A line of each wiper's table: a disk that is full of old roots stops the machine."""

_GRUB = {
    "usr/sbin/update-grub": "update-grub",
    "usr/sbin/grub2-mkconfig": "grub2-mkconfig -o /boot/grub2/grub.cfg",
    "usr/bin/grub-mkconfig": "grub-mkconfig -o /boot/grub/grub.cfg",
    "usr/sbin/grub-mkconfig": "grub-mkconfig -o /boot/grub/grub.cfg",
}


def on_command_line(survey: Survey, words: str) -> list[str]:
    """How *words* get onto the kernel command line."""
    if survey.has_entries and survey.grubby:
        # Of the kernels that are installed; kernel-install(8) has a file for those to come.
        commands = [f"grubby --update-kernel=ALL --args={shlex.quote(words)}"]
        if survey.has("etc/kernel/cmdline"):
            commands.append(f"sed -i {shlex.quote(f'1s|$| {words}|')} /etc/kernel/cmdline")
        return commands
    if survey.boot_loader == "grub":
        return [
            f"# put {words} into GRUB_CMDLINE_LINUX in /etc/default/grub, then",
            update_grub(survey),
        ]
    if survey.boot_loader == "kernel-install":
        return [f"# put {words} into /etc/kernel/cmdline, and run kernel-install again"]
    if survey.boot_loader == "systemd-boot":
        return [f"# put {words} into the options of each file in loader/entries"]
    return [f"# put {words} on the kernel command line, in the boot loader's configuration"]


def device_key(survey: Survey) -> str:
    """The line of the wiper's table with the root's device, where no ``root=`` names it."""
    if not survey.root_is_found_by_others:
        return ""
    return f"device = {quote(survey.device)}    # no root= names it\n"


def update_grub(survey: Survey) -> str:
    """What writes GRUB's configuration on that machine."""
    return next((command for path, command in _GRUB.items() if survey.has(path)), "update-grub")


def lost_boot_file(survey: Survey) -> str:
    """A kernel or a file of the boot loader on what would be wiped; empty if there is none."""
    lost = [path for path in survey.machine.boot_files if path.startswith("/boot/")
            and not survey.is_on_volume(path)]  # fmt: skip
    return next(iter(lost), "")


def needed(line: FstabLine) -> Step | None:
    """The step that makes the initramfs mount *line*; ``None`` if it does."""
    if line.needed_for_boot:
        return None
    point = shlex.quote(line.mount_point)
    return Step(
        f"The initramfs must mount {line.mount_point}: make its line in /etc/fstab this one, and "
        "mount it if it is not:",
        (
            replaced(line, line.with_initrd()),
            f"mountpoint -q {point} || mount {point}",
        ),
    )


def replaced(line: FstabLine, text: str, root: str = "") -> str:
    """Make *line* of the fstab below *root* be *text*."""
    return f"sed -i '{line.number}c\\{text}' {shlex.quote(f'{root}/etc/fstab')}"


def append(line: str) -> str:
    """Add *line* to fstab."""
    return f"echo {shlex.quote(line)} >> /etc/fstab"
