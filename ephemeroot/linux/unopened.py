"""Devices that nothing was made of: a LUKS that is not unlocked, a mirror that is not started.

What an initramfs opens is said by its kernel command line; where a device is missing, the word that
is missing there is mostly the reason.
"""

from __future__ import annotations

from ephemeroot.linux import duplicates, paths


def hint(database: str | None = None, sysfs: str = "/sys") -> str:
    """A line for people, or ``""`` if there is none; *database* is udev's."""
    folder = database or duplicates.DATABASE
    found = []
    try:
        names = sorted(name for name in paths.names(folder) if name.startswith("b"))
    except OSError:
        return ""
    for name in names:
        try:
            lines = paths.read(f"{folder}/{name}", 1 << 20).split(b"\n")
        except OSError:  # the device has just gone
            continue
        properties = duplicates.properties(lines)
        word = _word(properties)
        if word and not duplicates.holders(name[1:], sysfs):
            found.append(f"{duplicates.device_name(name[1:], sysfs)} ({word})")
    if not found:
        return ""
    from ephemeroot import amounts  # only a failure needs it

    return (
        f"no device was assembled from {amounts.listed(found)}: add dracut's parameter to the "
        "kernel command line, or build the image for this machine"
    )


def _word(properties: dict[str, str]) -> str:
    """The word with which dracut opens the device (dracut.cmdline(7))."""
    kind, uuid = properties.get("ID_FS_TYPE", ""), properties.get("ID_FS_UUID", "")
    if kind == "crypto_LUKS":
        return f"rd.luks.uuid=luks-{uuid}"
    if kind == "LVM2_member":
        return "rd.lvm.lv=GROUP/VOLUME"
    if kind == "linux_raid_member":
        plain = uuid.replace("-", "")
        return "rd.md.uuid=" + ":".join(plain[n : n + 8] for n in range(0, len(plain), 8))
    return ""
