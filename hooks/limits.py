"""How much work a boot, and copying back, does over content that users own.

All numbers are here; docs/persistence.md and ephemeroot.toml(5) have them in a table. Attaching
and binding have no limit: what the store has is put in place, however long the rest took.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.linux.bounds import Bounds

SEEDING = 120.0
"""Seconds for seeding in the wipe stage, from the root that is about to be wiped."""

PERSISTENCE = 60.0
"""Seconds for seeding, comparing and copying in the persistence stage."""

COPY_BACK = 60.0
"""Seconds for copying back. systemd ends a unit that needs 90 for it at shutdown."""

CLEANING = 5.0
"""Seconds for removing what an interrupted or a failed copy has left in a store."""

ENTRIES = 500_000
"""Names of one declared path."""

DEPTH = 1024
"""Directories inside one another in one declared path."""

READ = 512 << 20
"""Bytes that are read of one declared path to compare it, unless twice ``seed-limit`` is more."""

RECORD = 16 << 20
"""Bytes of one of our own records in a root or a store."""

PLAN = 64 << 20
"""Bytes of a plan."""

ACCOUNTS = 16 << 20
"""Bytes of a passwd, group, shadow or gshadow that is looked into."""

NAMED = 20
"""Names of files that could not be seeded, as far as a record and a message have them."""


def bounds(seed_limit: int, deadline: float | None) -> Bounds:
    """The bounds for one declared path: *seed_limit* bytes copied, the rest as above."""
    from ephemeroot.linux.bounds import Bounds  # most boots seed nothing

    return Bounds(
        bytes_copied=seed_limit,
        bytes_read=max(READ, 2 * seed_limit),
        file_bytes=seed_limit,
        entries=ENTRIES,
        depth=DEPTH,
        deadline=deadline,
    )


def describe(seed_limit: int) -> str:
    """The bounds in one line, as ``plan`` shows them."""
    return (
        f"at most {seed_limit >> 20} MiB copied, {max(READ, 2 * seed_limit) >> 20} MiB read, "
        f"{ENTRIES:,} names and {DEPTH:,} nested directories for each path; {SEEDING:.0f} s before "
        f"the wipe, {PERSISTENCE:.0f} s after it"
    )


class Time:
    """So many *seconds* from now, to be divided fairly: root's entries may use all of it, each
    user then gets an equal share of the rest, including unused time of earlier users.
    """

    __slots__ = ("end",)

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def share(self, waiting: int) -> float:
        """The deadline (``time.monotonic()``) of the next of *waiting* users."""
        now = time.monotonic()
        return now + max(self.end - now, 0.0) / max(waiting, 1)
