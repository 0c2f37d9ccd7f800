"""Whether the boot loader starts the images that ``apply`` writes, judged by its own files.

An image that is rebuilt under /boot boots only if the boot loader reads that /boot. After /boot has
moved to a filesystem or subvolume of its own, GRUB's first stage or its menu may still name the
directory on the root: the machine then keeps booting old kernels from there, and never wipes.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ephemeroot import amounts
from ephemeroot.config import Machine
from ephemeroot.errors import EphemerootError
from ephemeroot.image.generators import installed
from ephemeroot.linux import devices, mountinfo, paths
from ephemeroot.linux.mountinfo import Mount
from ephemeroot.machine import loader_interface
from ephemeroot.machine.facts import command_line

_ESP = ("/boot/efi", "/efi", "/boot")
_DIRECTORIES = ("grub", "grub2")

# The stub on the ESP: of grub-install ("load_cfg" in util/grub-install.c; `($root)'/boot/grub'`),
# of openSUSE's shim-install (`(${root})/boot/grub2`) and of Fedora's gen_grub_cfgstub
# (`($dev)/grub2`).
_SEARCH = re.compile(
    r"^\s*search(?:\.fs_uuid\s+|\s.*--fs-uuid\s.*?)([0-9A-Fa-f-]{8,36})\b", re.MULTILINE
)
_PREFIX = re.compile(r"^\s*set\s+prefix=\(\$\{?\w+\}?\)[\"']?([^\"'\s]+)", re.MULTILINE)
_KERNEL = re.compile(r"^\s*linux(?:16|efi)?\s+(?:\([^)]*\))?(/\S+)", re.MULTILINE)

_TRIES = re.compile(r"\+\d+(?:-\d+)?(?=\.)")


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault (``text``), its ``hint``, and the ``commands`` that repair it, if they are known."""

    text: str
    hint: str
    commands: tuple[str, ...] = ()

    @classmethod
    def repaired_by(cls, text: str, commands: Sequence[str]) -> Finding:
        """A finding whose hint is to run *commands*."""
        typed = " && ".join(commands)
        hint = f"run '{typed}'" if commands else "reinstall GRUB, then rebuild its menu"
        return cls(text, hint, tuple(commands))


def findings(machine: Machine) -> list[Finding]:
    """The reasons why the boot loader of the running *machine* does not start the images that are
    written under /boot. Empty for another machine, and where its files cannot be read.
    """
    if not machine.live:
        return []
    boot, root = mountinfo.mounted_at("/boot"), mountinfo.mounted_at("/")
    found = list(_entry(machine))
    if boot is None or root is None or boot.fstype in ("autofs", "zfs") or root.fstype == "zfs":
        return found  # another check covers /boot on the root; GRUB names ZFS datasets differently
    if (boot.major_minor, boot.root) == (root.major_minor, root.root):
        return found
    if loader_interface.is_systemd_boot():
        return found  # GRUB's files are unused
    wrong = _Wrong(boot)
    return [*found, *_grub(machine, wrong)]


class _Wrong:
    """Tells paths, relative to the top of their filesystem, in the directory /boot of a root from
    paths in the filesystem or subvolume that is mounted at /boot.
    """

    def __init__(self, boot: Mount) -> None:
        self.right = f"{boot.root.rstrip('/')}/"

    def __call__(self, path: str) -> bool:
        if not path.startswith(self.right):
            return "/boot/" in path
        # For a whole filesystem, ``right`` is "/", with which every path begins.
        return self.right == "/" and path[:6] == "/boot/" and not os.path.exists(f"/boot{path}")


def _grub(machine: Machine, wrong: _Wrong) -> Iterator[Finding]:
    first = _first_stage(wrong)
    if first is None:
        first = _booted(machine, wrong) if not _installed_since() else ""
    if first:
        yield Finding.repaired_by(
            f"the boot loader reads the directory /boot of the root ({first}), but images are "
            "written to the filesystem mounted at /boot",
            _repair(machine, first_stage=True),
        )
        return
    for directory in _DIRECTORIES:
        kernels = _KERNEL.findall(_text(f"/boot/{directory}/grub.cfg"))
        # The menu may also have entries of other systems.
        if kernels and all(wrong(path) for path in kernels):
            yield Finding.repaired_by(
                f"/boot/{directory}/grub.cfg starts {kernels[0]} from the directory /boot of the "
                "root, but images are written to the filesystem mounted at /boot",
                _repair(machine, first_stage=False),
            )


def _first_stage(wrong: _Wrong) -> str | None:
    """The fault in GRUB's stubs on the ESP: empty if a stub names this /boot, ``None`` if no stub
    names a filesystem of this machine.
    """
    uuids = {uuid for point in ("/boot", "/") if (uuid := _uuid(point))}
    mine = []
    for top in _ESP:
        try:
            vendors = sorted(paths.names(f"{top}/EFI"))
        except OSError:
            continue
        for vendor in vendors:
            place = f"{top}/EFI/{vendor}/grub.cfg"
            text = _text(place)
            search, prefix = _SEARCH.search(text), _PREFIX.search(text)
            if search and prefix and search[1].lower() in uuids:
                mine.append((place, prefix[1]))
    if not mine:
        return None
    if any(not wrong(f"{prefix}/") for _, prefix in mine):
        return ""
    return " names ".join(mine[0])


def _booted(machine: Machine, wrong: _Wrong) -> str:
    """The fault in the path of the running kernel (BOOT_IMAGE=, which GRUB adds), else empty."""
    for file, text in machine.command_lines:
        if file != "/proc/cmdline":
            continue
        image = command_line(text).get("BOOT-IMAGE") or ""  # as the kernel, which takes - for _
        if wrong(re.sub(r"^\([^)]*\)", "", image)):
            return f"this boot's kernel is BOOT_IMAGE={image}"
    return ""


def _installed_since() -> bool:
    """Whether `grub-install` has run for this /boot since the machine started. It writes its core
    image to /boot as well (util/grub-install.c, "core_name"), even where the ESP has no file that
    names the directory.
    """
    cores = [
        core
        for name in _DIRECTORIES
        for kind in ("core.img", "core.efi")
        for core in glob.glob(f"/boot/{name}/*/{kind}")
    ]
    try:
        started = next(
            int(line.split()[1])
            for line in paths.read("/proc/stat").decode("ascii").splitlines()
            if line.startswith("btime ")
        )
        return any(os.stat(core).st_mtime >= started for core in cores)
    except (OSError, StopIteration, ValueError):
        return False


def _entry(machine: Machine) -> Iterator[Finding]:
    """Findings on the entry that systemd-boot started, if its filesystem is mounted."""
    name = loader_interface.selected_entry()
    if not name or name.startswith("auto-"):
        return
    files = {
        os.path.normpath(path)
        for generator in installed.every()
        for path in map(str, generator.files(Path(machine.root)))
    }
    for top in _ESP:
        place = _named(f"{top}/loader/entries", name)
        if place is not None:
            for image in re.findall(r"^\s*initrd\s+(\S+)", _text(place), re.MULTILINE):
                path = os.path.normpath(f"{top}/{image.lstrip('/')}")
                if files and path not in files and not _is_microcode(path):
                    yield Finding(
                        f"the booted entry {place} loads {path}, which no initramfs generator "
                        "rebuilds",
                        f"change its initrd line to an image that is rebuilt: "
                        f"{amounts.listed(sorted(files))}",
                    )
            return
        if os.path.exists(f"{top}/EFI/Linux/{name}"):
            return
    yield Finding(
        f"the booted entry {name} is not on a filesystem mounted at {', '.join(_ESP)}",
        "mount the boot loader's filesystem, then run 'ephemeroot apply'",
    )


def _named(folder: str, name: str) -> str | None:
    """The entry's file, whatever counters of automatic boot assessment its name has."""
    wanted = name if name.endswith(".conf") else f"{name}.conf"
    try:
        found = [n for n in paths.names(folder) if _TRIES.sub("", n) == _TRIES.sub("", wanted)]
    except OSError:
        return None
    return f"{folder}/{found[0]}" if found else None


def _is_microcode(path: str) -> bool:
    return os.path.basename(path).endswith("-ucode.img")


def _repair(machine: Machine, *, first_stage: bool) -> list[str]:
    """The commands that repair it on this machine; empty if they are not known."""
    from ephemeroot.backends import commands, survey  # imported only if there is a finding

    try:
        here = survey.of(machine.root)
    except EphemerootError:
        return []
    words = []
    if first_stage:
        points = [line.mount_point for line in here.lines if line.mount_point in _ESP]
        words += [f"mount {point}" for point in points if not os.path.ismount(point)]
        words += commands.install_grub(here)
    words.append(commands.update_grub(here))
    return [word for word in words if not word.startswith("#")]


def _uuid(point: str) -> str:
    mount = mountinfo.mounted_at(point)
    if mount is None or not mount.source.startswith("/dev/"):
        return ""
    try:
        return (devices.filesystem_uuid(mount.source) or "").lower()
    except OSError:
        return ""


def _text(path: str) -> str:
    try:
        return paths.read(path, 1 << 20).decode("utf-8", "replace")
    except OSError:
        return ""
