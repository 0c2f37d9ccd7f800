"""Commands that the steps of several backends' proposals are made of."""

from __future__ import annotations

import shlex

from ephemeroot.backends.contract import Step
from ephemeroot.backends.survey import Survey
from ephemeroot.config.syntax.toml_text import quote
from ephemeroot.machine.fstab import FstabLine

STORE = "/persistent"

MIN_FREE = 'min-free = "10%"                     # below it, the oldest are deleted early\n'
"""A line of each wiper's table: a disk that is full of old roots stops the machine."""

_GRUB = {
    "usr/sbin/update-grub": "update-grub",
    "usr/bin/update-grub": "update-grub",
    "usr/sbin/grub2-mkconfig": "grub2-mkconfig -o /boot/grub2/grub.cfg",
    "usr/bin/grub2-mkconfig": "grub2-mkconfig -o /boot/grub2/grub.cfg",
    "usr/bin/grub-mkconfig": "grub-mkconfig -o /boot/grub/grub.cfg",
    "usr/sbin/grub-mkconfig": "grub-mkconfig -o /boot/grub/grub.cfg",
}

_ENTRIES = ("boot/loader/entries", "efi/loader/entries", "boot/efi/loader/entries")
"""Directories of entries of the boot loader specification, type 1."""


def on_command_line(survey: Survey, words: str) -> list[str]:
    """The commands that put *words* on the kernel command line, for each of that
    machine's boot loaders; a comment if there is no known command.
    """
    return [*set_on_command_line(survey, words), *update_boot_loader(survey)]


def set_on_command_line(survey: Survey, words: str) -> list[str]:
    """The commands that edit files; ``update_boot_loader`` makes them take effect."""
    found = []
    if survey.has("etc/kernel/cmdline"):
        # Of the kernels that will be installed: kernel-install(8).
        found.append(f"sed -i {shlex.quote(f'1s|$| {words}|')} /etc/kernel/cmdline")
    if survey.has_entries and survey.grubby:
        return [f"grubby --update-kernel=ALL --args={shlex.quote(words)}", *found]
    if survey.boot_loader == "grub":
        # A shell script that grub-mkconfig sources: the last assignment takes effect.
        text = f'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX {words}"'
        return [f"echo {shlex.quote(text)} >> /etc/default/grub", *found]
    edit = shlex.quote(f"/^options/s|$| {words}|")
    found += [f"sed -i {edit} /{f}/*.conf" for f in _ENTRIES if survey.has(f"{f}/*.conf")]
    for path, place in (("boot/firmware/cmdline.txt", "1"), ("boot/cmdline.txt", "1"),
                        ("boot/extlinux/extlinux.conf", r"/^\s*append\s/I")):  # fmt: skip
        if survey.has(path):
            found.append(f"sed -i {shlex.quote(f'{place}s|$| {words}|')} /{path}")
            break
    return found or [
        f"# put {words} on the kernel command line, in the boot loader's configuration"
    ]


def update_boot_loader(survey: Survey) -> list[str]:
    """The commands after which the boot loader follows its edited files."""
    if survey.has_entries and survey.grubby:
        return []
    if survey.boot_loader == "grub":
        return [update_grub(survey)]
    if not survey.has("etc/kernel/cmdline"):
        return []
    if survey.has("usr/bin/sdbootutil"):
        return ["sdbootutil update-all-entries"]
    generator = survey.generator
    rebuild = generator.rebuilding(survey.has) if generator is not None else ""
    return [rebuild] if rebuild else []


def device_key(survey: Survey) -> str:
    """The line of the wiper's table with the root's device, where no ``root=`` names it."""
    if not survey.root_is_found_by_others:
        return ""
    return f"device = {quote(survey.device)}    # root= does not name it\n"


def update_grub(survey: Survey) -> str:
    """What writes GRUB's configuration on that machine."""
    return next((command for path, command in _GRUB.items() if survey.has(path)), "update-grub")


def install_grub(survey: Survey) -> list[str]:
    """What writes GRUB's first stage again on that machine, after /boot has moved."""
    name = "grub2-install" if survey.has("usr/*bin/grub2-install") else "grub-install"
    if survey.is_efi:
        # By itself it looks for the ESP at /boot/efi alone (util/grub-install.c, "efidir").
        esp = survey.esp
        return [name if esp in ("", "/boot/efi") else f"{name} --efi-directory={esp}"]
    disks = survey.boot_disks
    if disks:
        return [f"{name} {shlex.quote(disk)}" for disk in disks]
    return [f"# {name} DISK    (the disk that the machine boots from)"]


def lost_boot_file(survey: Survey) -> str:
    """A kernel or boot loader file on the wiped filesystem; empty if there is none."""
    lost = [path for path in survey.machine.boot_files if path.startswith("/boot/")
            and not survey.is_on_volume(path)]  # fmt: skip
    return next(iter(lost), "")


def needed(line: FstabLine) -> Step | None:
    """The step that makes the initramfs mount *line*; ``None`` if it does."""
    if line.needed_for_boot:
        return None
    point = shlex.quote(line.mount_point)
    return Step(
        f"The initramfs must mount {line.mount_point}: replace its line in /etc/fstab by this one, "
        "and mount it:",
        (
            replaced(line, line.with_initrd()),
            f"mountpoint -q {point} || mount {point}",
        ),
    )


def replaced(line: FstabLine, text: str, root: str = "") -> str:
    """Make *line* of the fstab below *root* be *text*."""
    return f"sed -i '{line.number}c\\{text}' {shlex.quote(f'{root}/etc/fstab')}"


def insert(line: str, before: FstabLine | None) -> str:
    """Add *line* to fstab, *before* another one of it if that is given."""
    if before is None:
        return append(line)
    return f"sed -i {shlex.quote(f'{before.number}i{line}')} /etc/fstab"


def append(line: str) -> str:
    """Add *line* to fstab."""
    return f"echo {shlex.quote(line)} >> /etc/fstab"
