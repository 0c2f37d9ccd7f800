"""Volume groups, made by LVM's own programs without a device mapper: only metadata is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vm.cache import Cache
from vm.command import run
from vm.disk import Layout, copy_extents
from vm.loop import attached
from vm.system import System
from vm.tools import Tools

START = 1 << 20
"""Bytes from the start of a physical volume to its first extent; LVM's default."""
_EXTENT = 4  # MiB

# No udev is asked, and LVM must ignore all loop devices except this one.
_SCRIPT = """\
device=$1 group=$2; shift 2
lvm() { "$@" --quiet --driverloaded n --devices "$device" --config "$config" >&2; }
config='devices { obtain_device_list_from_udev = 0 external_device_info_source = "none" }'
lvm vgcreate "$group" "$device"
while [ $# != 0 ]; do
    lvm lvcreate -an -Zn -Wn --extents "$2" --name "$1" "$group"
    shift 2
done
"""


@dataclass(frozen=True)
class Lvm:
    """A physical volume over the whole disk with one group; `volumes` are its logical volumes by
    name, one after the other without gaps. The system must have these programs of LVM.
    """

    group: str
    volumes: tuple[tuple[str, Layout], ...]

    @property
    def size(self) -> str:
        """See Layout."""
        extents = sum(_extents(layout) for _, layout in self.volumes)
        return f"{(START >> 20) + (extents + 1) * _EXTENT}M"

    def fill(self, image: Path, cache: Cache, tools: Tools, system: System) -> None:
        """See Layout."""
        asked = [word for name, one in self.volumes for word in (name, str(_extents(one)))]
        with attached(image) as device:
            system.run(cache, "sh", "-euc", _SCRIPT, "lvm", device, self.group, *asked)
        place = START
        for _, layout in self.volumes:
            put_inside(image, place, layout, cache, tools, system)
            place += _extents(layout) * _EXTENT << 20


def _extents(layout: Layout) -> int:
    number, unit = int(layout.size[:-1]), layout.size[-1]
    mebibytes = number * {"M": 1, "G": 1024}[unit]
    if mebibytes % _EXTENT:
        raise ValueError(f"{layout.size} is not a multiple of {_EXTENT} MiB")
    return mebibytes // _EXTENT


def put_inside(
    image: Path, place: int, layout: Layout, cache: Cache, tools: Tools, system: System
) -> None:
    """Write `layout` into the raw image, `place` bytes after its start."""
    inside = image.with_suffix(".inside")
    run(["truncate", "--size", layout.size, inside])
    layout.fill(inside, cache, tools, system)
    copy_extents(inside, image, place)
    inside.unlink()
