"""Unopened devices: a LUKS volume that is not unlocked, an array that is not started.

The kernel command line tells an initramfs which devices to open. If a device is missing, a missing
parameter is usually the reason.
"""

from __future__ import annotations

from ephemeroot.linux import duplicates, paths


def hint(database: str | None = None, sysfs: str = "/sys") -> str:
    """A line for the message, or ``""``; *database* is udev's."""
    folder = database or duplicates.DATABASE
    found = []
    try:
        names = sorted(name for name in paths.names(folder) if name.startswith("b"))
    except OSError:
        return ""
    for name in names:
        try:
            lines = paths.read(f"{folder}/{name}", 1 << 20).split(b"\n")
        except OSError:  # removed meanwhile
            continue
        properties = duplicates.properties(lines)
        word = _word(properties)
        if word and not duplicates.holders(name[1:], sysfs):
            found.append(f"{duplicates.device_name(name[1:], sysfs)} ({word})")
    if not found:
        return ""
    from ephemeroot import amounts  # imported only for an error

    return (
        f"no device was assembled from {amounts.listed(found)}: add dracut's parameter to the "
        "kernel command line, or build the image for this machine"
    )


def _word(properties: dict[str, str]) -> str:
    """The parameter with which dracut opens the device (dracut.cmdline(7))."""
    kind, uuid = properties.get("ID_FS_TYPE", ""), properties.get("ID_FS_UUID", "")
    if kind == "crypto_LUKS":
        return f"rd.luks.uuid=luks-{uuid}"
    if kind == "LVM2_member":
        return "rd.lvm.lv=GROUP/VOLUME"
    if kind == "linux_raid_member":
        plain = uuid.replace("-", "")
        return "rd.md.uuid=" + ":".join(plain[n : n + 8] for n in range(0, len(plain), 8))
    return ""
