"""What cannot carry a layer above an installed root, or be one: refused before an image is built.

The kernel refuses it at boot, or the layers are not what they seem (overlayfs.rst, "upper and lower
filesystems").
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

# Filesystems on which an upper directory has been tried; each has RENAME_WHITEOUT and trusted.*.
_CARRIERS = ("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs", "zfs")


def check(
    config: Configuration,
    machine: Machine,
    mounted: Sequence[Volume],
    declared: Sequence[Declared],
    problems: list[Problem],
) -> None:
    """Note in *problems* what of the layers cannot work, and what works with a restriction."""
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
    """Note in *problems* the declared overlays that the kernel cannot stack on their content,
    and those on which it can stack no further one.
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
            depths[entry.path] = below  # it persists with that directory
            continue
        depths[entry.path] = below + 1 if entry.options.method == "overlay" else 0
        if entry.options.method == "overlay" and below + 1 >= _DEEPEST:
            problems.append(_too_deep(entry, below + 1))


def _too_deep(entry: Declared, depth: int) -> Problem:
    if depth > _DEEPEST:
        return Problem.at(
            entry.place,
            f"{entry.path} would be the overlay number {depth} on top of one another, and the "
            f"kernel stacks no more than {_DEEPEST}: it could not be mounted",
            'set method = "bind", or use the store of the directory that it is in',
        )
    return Problem.at(
        entry.place,
        f"{entry.path} is an overlay on an overlay, which is as deep as the kernel stacks them: no "
        "container and no system extension can be mounted above it",
        'set method = "bind" if you need one',
        warning=True,
    )


def _check_volume(volume: Volume, root: Root, add: Callable[[str, str], None]) -> None:
    point = volume.mount_point
    if volume.type not in _CARRIERS:
        add(f"no layer can be on {point}, a {volume.type}", "name a volume on ext4, xfs or btrfs")
    elif root.device is not None and volumes.same_device(root.device, volume.device):
        inside = volume.inside(point)
        whole = root.subvolume if volume.type == "btrfs" else ""
        # Of a btrfs, None is the default subvolume: the boot knows which one that is.
        if whole is not None and inside != whole and clean.is_below(inside, whole):
            # A layer that is inside of the root below it is refused as a lower one (ELOOP,
            # ovl_check_layer in fs/overlayfs/super.c): no old layer could be looked at.
            add(
                f"{point} is inside of the root's own filesystem, which is below the layers: an "
                "old layer there cannot be mounted",
                "remove volume to keep layers in memory, or name a volume on another filesystem",
            )
        elif clean.is_below(whole or "", inside):
            add(
                f"{point} is the root's own filesystem, which is below the layers: its files would "
                "be writable",
                "remove volume to keep layers in memory, or name another volume",
            )


def _check_type(wiping: Wiping, machine: Machine, add: Callable[..., None]) -> None:
    """The type is written into the plan: the initramfs mounts the root by it."""
    plugin = wiping.plugin
    wanted = plugin.wiper.root_type(dict(wiping.settings)) if plugin is not None else ""
    if not wanted or machine.another:
        return
    for where, found in _types(machine):
        if not volumes.mounts_as(wanted, found):
            add(
                wiping.origin.of("type"),
                f"the root is a {found} ({where}), but type is {wanted}: it cannot be mounted",
                f'set type = "{found}"',
            )
            return


def _types(machine: Machine) -> list[tuple[str, str]]:
    """What the machine says of the type of its root, each with its source."""
    found = [(machine.show("/etc/fstab"), line.type) for line in fstab_lines(machine) if line.type]
    mount = machine.root_mount
    if machine.live and mount is not None and mount.source.startswith("/"):
        found.insert(0, ("the mounted filesystem", mount.fstype))
    for file, text in machine.command_lines:
        found += [(file, value) for value in command_line(text).values("rootfstype")]
    return [(where, kind) for where, kind in found if kind not in ("auto", "none", "overlay")
            and "," not in kind]  # fmt: skip
