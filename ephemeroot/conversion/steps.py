"""What is left to do before a proposed configuration holds, with the exact commands."""

from __future__ import annotations

import shlex

from ephemeroot.config.fstab import INITRD, FstabLine
from ephemeroot.config.machine import command_line
from ephemeroot.conversion import swap_steps
from ephemeroot.conversion.commands import TOP, Step, append, mounted_top, replaced, top
from ephemeroot.conversion.layout import LABEL, Layout
from ephemeroot.conversion.survey import Survey
from ephemeroot.image.generators import installed

_FILE = "/etc/ephemeroot/ephemeroot.toml"

_GRUB = {
    "usr/sbin/update-grub": "update-grub",
    "usr/sbin/grub2-mkconfig": "grub2-mkconfig -o /boot/grub2/grub.cfg",
    "usr/bin/grub-mkconfig": "grub-mkconfig -o /boot/grub/grub.cfg",
    "usr/sbin/grub-mkconfig": "grub-mkconfig -o /boot/grub/grub.cfg",
}


def of(survey: Survey, layout: Layout) -> list[Step]:
    """The steps, in the order in which they must be taken."""
    found = [_generator(survey)]
    if layout.wiper == "btrfs":
        found += [_own_root(survey, layout), _by_name(survey, layout)]
        found += [
            _boot(survey, layout),
            _subvolume(layout),
            *swap_steps.into_subvolume(survey, layout),
        ]
    elif layout.wiper == "zfs":
        found += [_by_dataset(survey, layout), _boot_off_dataset(survey), _dataset(layout)]
    else:
        found += [_filesystem(survey, layout), *swap_steps.off_overlay(survey)]
    found += [_configuration(), _module(survey)]
    if layout.wiper == "btrfs":
        found += [_base()]
    elif layout.wiper == "zfs":
        found += [_base_dataset(layout)]
    found += [
        Step("Look for mistakes, and try a boot without booting:",
             ("ephemeroot check", "ephemeroot rehearse")),
        Step("Make it count, and boot the first ephemeral root:", ("ephemeroot apply", "reboot")),
    ]  # fmt: skip
    return [step for step in found if step is not None]


def _generator(survey: Survey) -> Step | None:
    if survey.generator is not None:
        return None
    wanted = installed.recommended()
    made = f"{survey.unsupported} cannot carry it" if survey.unsupported else "none was found here"
    title = f"An initramfs made by {wanted.NAME} ({made}):"
    return Step(title, (wanted.installation(survey.has),))


def _own_root(survey: Survey, layout: Layout) -> Step | None:
    """A root that cannot be exchanged: the top level, or a snapshot of snapper's."""
    if survey.inner == layout.root:
        return None
    source = f"{TOP}/{survey.inner}".rstrip("/")
    line = survey.root_line
    renamed = (
        [replaced(line, line.with_subvolume(layout.root), f"{TOP}/{layout.root}")] if line else []
    )
    return Step(
        f"A subvolume for the root alone, {layout.root}, and a boot into it; the present one "
        f"({survey.inner or 'the top level'}) stays as it is:",
        (
            *mounted_top(
                layout,
                f"btrfs subvolume snapshot {shlex.quote(source)} {top(layout.root)}",
                *renamed,
            ),
            *_command_line(survey, layout),
            "reboot",
        ),
    )


def _by_name(survey: Survey, layout: Layout) -> Step | None:
    """The root is booted, and in fstab, by the name that the fresh one will have."""
    if survey.inner != layout.root:
        return None
    commands: list[str] = []
    line = survey.root_line
    if line is not None and line.option("subvolid") is not None:
        commands.append(
            "sed -i -E '/^[^#]\\S*\\s+\\/\\s/ { s/,subvolid=[0-9]+//; s/subvolid=[0-9]+,?// }' "
            "/etc/fstab"
        )
    by_id = any("subvolid=" in ",".join(command_line(text).root_flags())
                for _, text in survey.machine.command_lines)  # fmt: skip
    if by_id or not survey.named:
        commands += [*_command_line(survey, layout), "reboot"]
    if not commands:
        return None
    return Step("The root by its name, for the number changes at every boot:", tuple(commands))


def _command_line(survey: Survey, layout: Layout) -> list[str]:
    return _words(survey, f"rootflags=subvol={layout.root}")


def _words(survey: Survey, words: str) -> list[str]:
    """How *words* get onto the kernel command line."""
    if survey.boot_loader == "grub":
        update = next((c for p, c in _GRUB.items() if survey.has(p)), "update-grub")
        return [
            f"# put {words} into GRUB_CMDLINE_LINUX in /etc/default/grub, then",
            update,
        ]
    if survey.boot_loader == "kernel-install":
        return [f"# put {words} into /etc/kernel/cmdline, and run kernel-install again"]
    if survey.boot_loader == "systemd-boot":
        return [f"# put {words} into the options of each file in loader/entries"]
    return [f"# put {words} on the kernel command line, in the boot loader's configuration"]


def _boot(survey: Survey, layout: Layout) -> Step | None:
    """Kernel and boot loader must not lie on what is wiped."""
    machine = survey.machine
    lost = [path for path in machine.boot_files if path.startswith("/boot/")
            and not survey.is_on_volume(path)]  # fmt: skip
    if not lost or any(line.mount_point == "/boot" for line in survey.lines):
        return None
    parent, _, name = layout.root.rpartition("/")
    subvolume = f"{parent}/" if parent else ""
    subvolume += "@boot" if name.startswith("@") else "boot"
    inner = sorted(
        line.mount_point for line in survey.lines if line.mount_point.startswith("/boot/")
    )
    commands = [
        *(f"umount {shlex.quote(point)}" for point in reversed(inner)),
        *mounted_top(
            layout,
            f"btrfs subvolume create {top(subvolume)}",
            f"cp -a --reflink=auto /boot/. {top(subvolume)}/",
        ),
        append(f"{layout.device} /boot btrfs subvol={subvolume} 0 0"),
        "mount /boot",
        *(f"mount {shlex.quote(point)}" for point in inner),
    ]
    if survey.boot_loader == "grub":
        update = next((c for p, c in _GRUB.items() if survey.has(p)), "update-grub")
        commands += ["# GRUB looks for itself in another place from now on:"]
        if machine.root == "/" and survey.has("sys/firmware/efi"):
            commands += ["grub-install"]
        else:
            commands += ["# grub-install DISK    (the disk that the machine boots from)"]
        commands += [update]
    return Step(
        f"Kernels and boot loader off the root ({lost[0]} is on it), into a subvolume of their "
        "own; a partition for /boot does as well:",
        tuple(commands),
    )


def _subvolume(layout: Layout) -> Step | None:
    """The store's subvolume, its line in fstab, mounted."""
    if layout.line is not None:
        return _needed(layout.line)
    line = f"{layout.device} {layout.store} btrfs subvol={layout.subvolume},noatime,{INITRD} 0 0"
    return Step(
        "A subvolume for what persists, which the initramfs mounts:",
        (
            *mounted_top(layout, f"btrfs subvolume create {top(layout.subvolume)}"),
            f"mkdir -p {shlex.quote(layout.store)}",
            append(line),
            f"mount {shlex.quote(layout.store)}",
        ),
    )


def _filesystem(survey: Survey, layout: Layout) -> Step | None:
    """A place for the store beside an installed root that stays as it is."""
    if layout.line is not None:
        return _needed(layout.line)
    if layout.host is not None:
        step = _needed(layout.host)
        make = f"mkdir -p -m 0755 {shlex.quote(layout.store)}"
        return Step(
            f"The store, on the volume {layout.host.mount_point}:",
            (*(step.commands if step else ()), make),
        )
    commands = [
        f"mkfs.ext4 -L {LABEL} DEVICE    # a partition or logical volume that is free",
        f"mkdir -p {layout.store}",
        append(f"LABEL={LABEL} {layout.store} ext4 noatime,{INITRD} 0 0"),
        f"mount {layout.store}",
    ]
    if "/mapper/" in survey.device or survey.has("sbin/lvm") or survey.has("usr/sbin/lvm"):
        commands.insert(0, "# with LVM: lvcreate -n persistent -L 20G VOLUME-GROUP")
    return Step("A filesystem for what persists, for the root itself is read-only:",
                tuple(commands))  # fmt: skip


def _needed(line: FstabLine) -> Step | None:
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


def _configuration() -> Step:
    return Step(
        "This configuration in its place:",
        ("mkdir -p /etc/ephemeroot", f"ephemeroot init > {_FILE}", f'"${{EDITOR:-vi}}" {_FILE}'),
    )


def _module(survey: Survey) -> Step | None:
    generator = survey.generator or installed.recommended()
    install = () if survey.has_module else (f"ephemeroot setup {generator.NAME}",)
    commands = (*install, *generator.NOTES)
    return Step(f"The module for {generator.NAME}:", commands) if commands else None


def _base() -> Step:
    """Last: what was set up before must be in it."""
    return Step(
        "The base, a copy of the root as it is now; each fresh root is a snapshot of it:",
        ("ephemeroot base create",),
    )


def _by_dataset(survey: Survey, layout: Layout) -> Step | None:
    """A root that is rotated must be booted by its name."""
    wanted = f"zfs:{layout.root}"
    lines = [command_line(text).get("root") for _, text in survey.machine.command_lines]
    if lines and all(line in (wanted, f"ZFS={layout.root}") for line in lines):
        return None
    return Step(
        "The root by its name, for the pool's bootfs is an object number and follows the old one:",
        (*_words(survey, f"root={wanted}"), "reboot"),
    )


def _boot_off_dataset(survey: Survey) -> Step | None:
    lost = [path for path in survey.machine.boot_files if path.startswith("/boot/")
            and not survey.is_on_volume(path)]  # fmt: skip
    if not lost:
        return None
    return Step(
        f"Kernels and boot loader off the root ({lost[0]} is on it):",
        ("# a partition or a dataset of a boot pool at /boot, with its line in /etc/fstab",),
    )


def _dataset(layout: Layout) -> Step | None:
    if layout.line is not None:
        return _needed(layout.line)
    line = f"{layout.subvolume} {layout.store} zfs defaults,{INITRD} 0 0"
    return Step(
        "A dataset for what persists, which the initramfs mounts:",
        (
            f"zfs create -o mountpoint=legacy {shlex.quote(layout.subvolume)}",
            f"mkdir -p {shlex.quote(layout.store)}",
            append(line),
            f"mount {shlex.quote(layout.store)}",
        ),
    )


def _base_dataset(layout: Layout) -> Step:
    """Sent, not cloned: a clone would keep the present root from ever being deleted."""
    root, base = shlex.quote(layout.root), shlex.quote(layout.base)
    return Step(
        "The base, a copy of the root as it is now; each fresh root is a clone of its snapshot:",
        (
            f"zfs snapshot {root}@blank",
            f"zfs send {root}@blank | zfs receive -u -o canmount=noauto -o mountpoint=none {base}",
        ),
    )
