"""The lines of /etc/fstab (fstab(5))."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ephemeroot.linux.mountinfo import unescape

INITRD = "x-initrd.mount"
"""The option that makes the initramfs mount a line (systemd.mount(5))."""

# systemd.time(7), "Parsing Time Spans"; seconds.
_UNITS = {
    "usec us µs": 1e-6, "msec ms": 1e-3, "seconds second sec s": 1.0, "": 1.0,
    "minutes minute min m": 60.0, "hours hour hr h": 3600.0, "days day d": 86400.0,
    "weeks week w": 604800.0, "months month M": 2629800.0, "years year y": 31557600.0,
}  # fmt: skip
_SECONDS = {name: seconds for names, seconds in _UNITS.items() for name in names.split() or [""]}
# Possessive: otherwise 100,000 digits that do not match take too long.
_SPAN = re.compile(r"\s*+(?:\d{1,15}+(?:\.\d{0,9}+)?+\s*+[A-Za-zµ]{0,7}+\s*+)++", re.ASCII)
_PART = re.compile(r"(\d+(?:\.\d*)?)\s*([A-Za-zµ]*)", re.ASCII)

_VOLATILE = ("tmpfs", "ramfs", "overlay", "swap", "proc", "sysfs", "devtmpfs")


@dataclass(frozen=True, slots=True)
class FstabLine:
    """One line: ``device``, ``mount_point`` (without a final slash), ``type``, ``options``
    and its ``number``, counted from 1.
    """

    device: str
    mount_point: str
    type: str
    options: tuple[str, ...]
    number: int

    @property
    def needed_for_boot(self) -> bool:
        """Whether the initramfs mounts it."""
        return INITRD in self.options and "noauto" not in self.options

    @property
    def persists(self) -> bool:
        """Whether the machine mounts it at each boot, and its content survives a reboot."""
        mounted = "noauto" not in self.options or "x-systemd.automount" in self.options
        return mounted and self.type not in _VOLATILE

    def with_initrd(self) -> str:
        """The line, changed so that the initramfs mounts it."""
        kept = [o for o in self.options if o not in ("defaults", "noauto", INITRD)]
        return self._with(*kept, INITRD)

    def with_subvolume(self, path: str) -> str:
        """The line for another subvolume, with all other options unchanged."""
        kept = [o for o in self.options if o != "defaults" and not o.startswith("subvol")]
        return self._with(f"subvol={path}", *kept)

    def _with(self, *options: str) -> str:
        fields = (self.device, self.mount_point, self.type, ",".join(options), "0", "0")
        return "  ".join(_escape(field) for field in fields)

    def option(self, name: str) -> str | None:
        """The last value of ``name=value``."""
        return option(self.options, name)


def time_span(text: str) -> int | None:
    """The whole seconds of a time span in systemd's syntax, rounded up; 0 for ``infinity`` and for
    a zero span, which systemd treats alike here; ``None`` if it is not valid.
    """
    if text.strip() == "infinity":
        return 0
    parts = _PART.findall(text)
    if not _SPAN.fullmatch(text) or any(unit not in _SECONDS for _, unit in parts):
        return None
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    return math.ceil(seconds) if math.isfinite(seconds) else None


def keeper(lines: Iterable[FstabLine], path: str) -> FstabLine | None:
    """The line of *lines* for the persistent filesystem that contains *path*; ``None`` if it is on
    the root, or on a filesystem that does not persist.
    """
    above = [
        line
        for line in lines
        if line.mount_point != "/" and f"{path}/".startswith(f"{line.mount_point}/")
    ]
    nearest = max(above, key=lambda line: len(line.mount_point), default=None)
    return nearest if nearest is not None and nearest.persists else None


def option(options: tuple[str, ...] | list[str], name: str) -> str | None:
    """The last value of ``name=value`` in mount options, ``None`` if there is none."""
    values = [o.partition("=")[2] for o in options if o.startswith(f"{name}=")]
    return values[-1] if values else None


def parse(text: str) -> list[FstabLine]:
    """The lines of mounts; comments, swap and invalid lines are left out."""
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        fields = [unescape(field) for field in line.split()]
        if len(fields) < 2 or fields[0].startswith("#") or not fields[1].startswith("/"):
            continue
        device = fields[0].replace('"', "")
        if not device:
            continue
        point = "/" + "/".join(part for part in fields[1].split("/") if part)
        type_ = fields[2] if len(fields) > 2 else "auto"
        options = fields[3] if len(fields) > 3 else "defaults"
        split = tuple(option for option in options.split(",") if option)
        found.append(FstabLine(device, point, type_, split, number))
    return found


def _escape(field: str) -> str:
    return "".join(f"\\{ord(c):03o}" if c in " \t\n\\#" else c for c in field)
