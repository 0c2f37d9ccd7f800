"""Sizes of filesystems in memory (tmpfs(5)), for the wipers that use them."""

from __future__ import annotations

from ephemeroot.linux import values
from ephemeroot.wipers.contract import Finding

SMALLEST = 1 << 20
"""Bytes. A smaller root is a mistake in the unit."""

FEWEST = 1024
"""Inodes. A running system makes more in its first seconds."""

_HINT = 'write a size such as "2G" or "50%"'


def size_findings(size: object) -> list[Finding]:
    """Sizes that the kernel takes for no limit at all (mm/shmem.c), or that no system fits into."""
    text = str(size).rstrip("%")
    number = values.number(text)
    if number is None:
        return []
    if number == 0:
        reason = "0 removes the limit: files in the root can use up all memory"
        return [Finding("size", reason, _HINT)]
    if text == size and number < SMALLEST:
        from ephemeroot import amounts  # only a mistake needs it

        reason = f"a root of {amounts.size(number)} has no room for a running system"
        return [Finding("size", reason, _HINT)]
    return []


def inode_findings(number: object) -> list[Finding]:
    """Too few files for a system; 0 is not a limit."""
    if not isinstance(number, int) or number == 0 or number >= FEWEST:
        return []
    reason = f"{number} files are too few for a running system"
    return [Finding("nr-inodes", reason, f"write {FEWEST} or more, or leave it out")]
