"""Under which name a root retires, and how it gets that name: the same for all backends."""

from __future__ import annotations

from ephemeroot.linux import immutable, paths
from ephemeroot.wipers import retention
from ephemeroot.wipers.names import Name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeroot.wipers.history import History


def next_name(
    history: History, now: float, *, synchronised: bool, keep_days: int, unused: bool
) -> Name:
    """The name in *history* of a root that retires *now* (seconds since 1970), by a clock that is
    *synchronised* or not. *unused*: no boot of it was complete.
    """
    plausible = retention.is_plausible(
        [entry.name for entry in history.retired() if entry.name is not None],
        now,
        synchronised=synchronised,
        seen=history.seen(),
        keep_days=keep_days,
    )
    first = not unused and not history.has_first()
    return history.free(Name(now, unsynced=not plausible, unused=unused, keep=first))


def leftover_name(history: History, now: float) -> Name:
    """The name in *history* of a root that never got its place, and must not be deleted."""
    return history.free(Name(now, unsynced=True, unused=True))


def into_history(
    directory: int, text: str, old_roots: int, name: Name, free: Callable[[Name], Name]
) -> str:
    """Give *text* in the open *directory* that *name* in the open directory *old_roots*, or the
    next one that is *free*; return it. One rename, and nothing is overwritten. A root that is
    immutable remains so.
    """
    while True:
        try:
            flags = paths.RENAME_NOREPLACE
            immutable.rename(directory, text, old_roots, str(name), how=flags)
            return str(name)
        except FileExistsError:
            name = free(name.at((name.time, name.number + 1)))
