"""Errors of stacked overlays: of layers above an installed root, and of declared overlays.

The kernel would refuse them at boot, or they would behave unexpectedly (overlayfs.rst, "upper and
lower filesystems").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ephemeroot.config import volumes
from ephemeroot.config.declared import Declared
from ephemeroot.config.model import Configuration, Volume, Wiping
from ephemeroot.config.syntax import clean
from ephemeroot.config.syntax.problem import Place, Problem
from ephemeroot.machine.facts import Machine, command_line
from ephemeroot.machine.root import Root, fstab_lines

_DEEPEST = 2  # FILESYSTEM_MAX_STACK_DEPTH, include/linux/fs.h

# Filesystems that are tested as an upper directory; each supports RENAME_WHITEOUT and trusted.*.
_CARRIERS = ("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs", "zfs")


def check(
    config: Configuration,
    machine: Machine,
    mounted: Sequence[Volume],
    declared: Sequence[Declared],
    problems: list[Problem],
) -> None:
    """Note in *problems* the layers that cannot work, and those that work with a restriction."""
    check_depth(config, declared, problems)
    wiping = config.wiping
    if wiping is None or wiping.plugin is None or not wiping.plugin.wiper.LAYERED:
        return

    def add(place: Place, reason: str, hint: str, *, warning: bool = False) -> None:
        problems.append(Problem.at(place, reason, hint, warning=warning))

    root = Root.named(machine, wiping.device, wiping.subvolume)
    for key, point in wiping.plugin.volumes(wiping.settings).items():
        volume = next((one for one in mounted if one.mount_point == point), None)
        if volume is not None and volume.persists:
            _check_volume(volume, root, lambda why, hint, key=key: add(  # type: ignore[misc]
                wiping.origin.of(key), why, hint))  # fmt: skip
    _check_type(wiping, machine, add)


def check_depth(
    config: Configuration, declared: Sequence[Declared], problems: list[Problem]
) -> None:
    """Note in *problems* the declared overlays that exceed the stacking depth of the kernel, and
    those on which it can stack no other overlay.
    """
    wiping = config.wiping
    layered = wiping is not None and wiping.plugin is not None and wiping.plugin.wiper.LAYERED
    known = {entry.path: entry for entry in declared if entry.is_directory}
    depths: dict[str, int] = {}
    for entry in sorted(known.values(), key=lambda entry: clean.components(entry.path)):
        above = next((known[path] for path in reversed(clean.parents(entry.path)) if path in known),
                     None)  # fmt: skip
        below = int(layered) if above is None else depths[above.path]
        if above is not None and above.store == entry.store:
            depths[entry.path] = below  # it is part of that directory
            continue
        depths[entry.path] = below + 1 if entry.options.method == "overlay" else 0
        if entry.options.method == "overlay" and below + 1 >= _DEEPEST:
            problems.append(_too_deep(entry, below + 1))


def _too_deep(entry: Declared, depth: int) -> Problem:
    if depth > _DEEPEST:
        return Problem.at(
            entry.place,
            f"cannot mount {entry.path}: it would be {depth} overlays deep, and the kernel stacks "
            f"at most {_DEEPEST}",
            'set method = "bind", or use the store of the directory above it',
        )
    return Problem.at(
        entry.place,
        f"{entry.path} is an overlay on an overlay: the kernel stacks no more, so containers and "
        "system extensions cannot be mounted on it",
        'set method = "bind" if you need them there',
        warning=True,
    )


def _check_volume(volume: Volume, root: Root, add: Callable[[str, str], None]) -> None:
    point = volume.mount_point
    if volume.type not in _CARRIERS:
        add(
            f"cannot keep layers on {point}: {volume.type} does not support them",
            "name a volume on ext4, xfs or btrfs",
        )
    elif root.device is not None and volumes.same_device(root.device, volume.device):
        inside = volume.inside(point)
        whole = root.subvolume if volume.type == "btrfs" else ""
        # On btrfs, ``None`` means the default subvolume, which only the boot knows.
        if whole is not None and inside != whole and clean.is_below(inside, whole):
            # The kernel refuses a lower layer that is inside another layer (ELOOP, ovl_check_layer
            # in fs/overlayfs/super.c): old layers could not be mounted.
            add(
                f"cannot keep layers on {point}: it is inside the root's filesystem, where old "
                "layers cannot be mounted",
                "remove volume to keep layers in memory, or name a volume on another filesystem",
            )
        elif clean.is_below(whole or "", inside):
            add(
                f"cannot keep layers on {point}: it is the root's filesystem, whose files would be "
                "writable there",
                "remove volume to keep layers in memory, or name another volume",
            )


def _check_type(wiping: Wiping, machine: Machine, add: Callable[..., None]) -> None:
    """The type is part of the plan: the initramfs mounts the root with it."""
    plugin = wiping.plugin
    wanted = plugin.wiper.root_type(dict(wiping.settings)) if plugin is not None else ""
    if not wanted or machine.another:
        return
    for where, found in _types(machine):
        if not volumes.mounts_as(wanted, found):
            add(
                wiping.origin.of("type"),
                f"cannot mount the root: it is {found} ({where}), but type is {wanted}",
                f'set type = "{found}"',
            )
            return


def _types(machine: Machine) -> list[tuple[str, str]]:
    """The filesystem types of the machine's root, each with its source."""
    found = [(machine.show("/etc/fstab"), line.type) for line in fstab_lines(machine) if line.type]
    mount = machine.root_mount
    if machine.live and mount is not None and mount.source.startswith("/"):
        found.insert(0, ("the mounted filesystem", mount.fstype))
    for file, text in machine.command_lines:
        found += [(file, value) for value in command_line(text).values("rootfstype")]
    return [(where, kind) for where, kind in found if kind not in ("auto", "none", "overlay")
            and "," not in kind]  # fmt: skip
