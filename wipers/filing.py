"""Under which name a root retires, and how it gets that name: the same for all backends."""

from __future__ import annotations

from ephemeroot.linux import inode_flags, paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeroot.wipers.names import Name


def file(
    directory: int, text: str, old_roots: int, name: Name, free: Callable[[Name], Name]
) -> str:
    """Give *text* in the open *directory* that *name* in the open directory *old_roots*, or the
    next one that is *free*; return it. One rename, and nothing is overwritten. What is
    immutable remains so.
    """
    while True:
        try:
            flags = paths.RENAME_NOREPLACE
            inode_flags.rename(directory, text, old_roots, str(name), how=flags)
            return str(name)
        except FileExistsError:
            name = free(name.at((name.time, name.number + 1)))
