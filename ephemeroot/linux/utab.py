"""libmount's private table of mount options that only user space reads.

util-linux keeps options that the kernel does not have (``x-gvfs-hide``) in ``/run/mount/utab``. A
line matches a mount by source, root and target (libmount/src/tab_parse.c,
``mnt_table_merge_user_fs``), so it can be written before ``switch_root`` with the later target.
libmount reads and writes the whole table for each mount; this module adds all lines at once.
"""

from __future__ import annotations

import os

from ephemeroot.linux import mountinfo, paths

PATH = "/run/mount/utab"


def add(table: str, root: str, places: list[str], options: list[str]) -> int:
    """Add the user-space *options* to the mounts at *places* under *root*.

    *places* are paths after *root* has become the root. Returns the number of places with a mount.
    Raises ``OSError`` if the table cannot be written.
    """
    top = {mount.point: mount for mount in mountinfo.mounts()}
    base = root.rstrip("/")
    lines = []
    for place in places:
        mount = top.get(base + place)
        if mount is not None:
            lines.append(
                f"SRC={escape(mount.source)} TARGET={escape(place)} "
                f"ROOT={escape(mount.root)} OPTS={escape(','.join(options))}\n"
            )
    present = _existing(table)
    known = set(present.splitlines(keepends=True))
    encoded = [line.encode("utf-8", "surrogateescape") for line in lines]
    new = [line for line in encoded if line not in known]  # the stage may run a second time
    if new:
        os.makedirs(os.path.dirname(table), 0o755, exist_ok=True)
        paths.write_atomically(table, present + b"".join(new))
    return len(lines)


def _existing(table: str) -> bytes:
    try:
        return paths.read(table, 1 << 26)
    except FileNotFoundError:
        return b""


def escape(text: str) -> str:
    """Octal escapes like libmount's ``mangle``: blank, tab, newline, backslash."""
    out = text.replace("\\", "\\134")
    for character in " \t\n":
        out = out.replace(character, f"\\{ord(character):03o}")
    return out
