"""What a base would give to every new root though it belongs in none, or in one.

A root that is installed once does these things once. A base is copied at every boot, so a job for
"the next boot" is done at all of them, a nested subvolume is empty in all of them, and a swap file
shares its extents with the base in all of them.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from ephemeroot.linux import kernel_modules, paths
from ephemeroot.machine import swap
from ephemeroot.machine.units import text_of

# Path, what happens at each boot, and the remedy: which program looks for it and removes it itself.
_MARKERS = (
    (
        "/.autorelabel", "SELinux relabels all files and restarts",
        "end the command with 'restorecon -RF /etc /usr /var && rm /.autorelabel'",
    ),
    (
        "/system-update", "systemd installs offline updates and restarts (systemd.offline-updates)",
        "install the updates with 'ephemeroot base run', and remove /system-update",
    ),
    (
        "/etc/system-update", "systemd installs offline updates and restarts",
        "install the updates with 'ephemeroot base run', and remove /etc/system-update",
    ),
    (
        "/forcefsck", "all filesystems are checked",
        "remove it; 'fsck.mode=force' on the kernel command line does it once",
    ),
    (
        "/forcequotacheck", "all quotas are checked",
        "remove it; 'quotacheck.mode=force' on the kernel command line does it once",
    ),
    (
        "/.unconfigured", "the first-boot setup starts",
        "finish that setup, and remove the file",
    ),
    (
        "/etc/reconfigSys", "the first-boot setup starts",
        "finish that setup, and remove the file",
    ),
    (
        "/var/lib/YaST2/reconfig_system", "the first-boot setup starts",
        "finish that setup, and remove the file",
    ),
)  # fmt: skip
_MACHINE_ID = "/etc/machine-id"

# Nested subvolumes that hold what a new root does not need: snapshots, scratch space, machines and
# images, which systemd-tmpfiles(8) and the programs make themselves.
_NO_LOSS = (
    "/.snapshots", "/home", "/srv", "/root", "/tmp", "/var/tmp", "/var/cache", "/var/log",
    "/var/spool", "/var/lib/machines", "/var/lib/portables", "/var/lib/docker",
    "/var/lib/containers", "/var/lib/containerd", "/var/lib/libvirt", "/var/lib/lxc",
    "/var/lib/lxd", "/var/lib/incus", "/timeshift",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fault:
    """Something in every new root at ``path``: what, and what to do."""

    path: str
    text: str
    hint: str


def inspect(root: int, kept: Collection[str], omitted: Collection[str]) -> list[Fault]:
    """The fault in the open directory *root* as a base. *kept* are paths that a new root does
    not take from it: persistent ones, and mount points. *omitted*: see ``Bases.omitted``.
    """
    return [*markers(root, kept), *nested(omitted, kept), *swap_files(root, kept)]


def is_kept(path: str, kept: Collection[str]) -> bool:
    """Whether *path* is one of *kept*, or is in one of them."""
    return any(path == one or path.startswith(f"{one}/") for one in kept if one != "/")


def markers(root: int, kept: Collection[str]) -> Iterator[Fault]:
    """Files that ask the next boot for a job that is done once."""
    for path, what, hint in _MARKERS:
        if not is_kept(path, kept) and _exists(root, path):
            yield Fault(path, f"{path} would be in every new root: at each boot {what}", hint)
    if not is_kept(_MACHINE_ID, kept) and text_of(root, _MACHINE_ID).strip() == "uninitialized":
        yield Fault(
            _MACHINE_ID,
            f"{_MACHINE_ID} says that the machine was never booted: each boot runs the first-boot "
            "setup (systemd-firstboot(1))",
            f"declare {_MACHINE_ID}, or run 'systemd-machine-id-setup' in the base",
        )


def nested(omitted: Collection[str], kept: Collection[str]) -> Iterator[Fault]:
    """Those of *omitted* that are missed: a copy has an empty directory instead of each."""
    for path in omitted:
        place = f"/{path}"
        if is_kept(place, kept) or is_kept(place, _NO_LOSS):
            continue
        quoted, old = shlex.quote(place), shlex.quote(f"{place}.old")
        yield Fault(
            place,
            f"{place} is a nested subvolume of the root: it would be empty in every new root",
            f"make it a directory ('mv {quoted} {old} && cp -a --reflink=auto {old} {quoted}'), "
            f'give it a line in /etc/fstab, or declare "{place}"',
        )


def swap_files(root: int, kept: Collection[str]) -> Iterator[Fault]:
    """Swap files in *root*: the copies share their extents, and swapon(8) refuses them."""
    for path in swap.files(root):
        if not is_kept(path, kept):
            yield Fault(
                path,
                f"the swap file {path} would be in every new root, and cannot be activated there: "
                "its extents are shared with the base",
                swap_remedy(path),
            )


def swap_remedy(path: str) -> str:
    """What to do about the swap file *path* in a root that is made new at each boot."""
    return (
        f"run 'swapoff {shlex.quote(path)}', remove the file and its fstab line, and put swap into "
        "a subvolume that is mounted at /swap, or on a partition: 'ephemeroot init' shows the "
        "commands"
    )


def built_modules(live: int, base: int) -> Iterator[Fault]:
    """Kernel modules that the open root *live* has and the open *base* lacks, for kernels that both
    have: built on this root (DKMS, akmods) after the base was made.
    """
    for release in sorted(kernel_modules.releases(live) & kernel_modules.releases(base)):
        here, there = module_names(live, release), module_names(base, release)
        missing = sorted(here - there) if there else []
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            yield Fault(
                f"/lib/modules/{release}",
                f"the base lacks modules that this root has for the kernel {release}: "
                f"{', '.join(missing[:3])}{more}",
                "build them in the base: 'ephemeroot base run -- dkms autoinstall -k "
                f"{release}', or '… akmods --kernels {release}'",
            )


def module_names(root: int, release: str) -> set[str]:
    """The modules of *release*, in files or built in, as the lists of depmod(8) have them."""
    names: set[str] = set()
    for place in kernel_modules.PLACES:
        for listing in ("modules.dep", "modules.builtin"):
            for line in text_of(root, f"{place}/{release}/{listing}").splitlines():
                name = line.partition(":")[0].rpartition("/")[2].partition(".ko")[0]
                if name:
                    names.add(name.replace("-", "_"))
    return names


def _exists(root: int, path: str) -> bool:
    parent, _, name = path.rpartition("/")
    try:
        fd = paths.open_in_root(root, parent or "/", os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        # A dangling link is found, too: only the name matters.
        os.stat(name, dir_fd=fd, follow_symlinks=False)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(fd)
