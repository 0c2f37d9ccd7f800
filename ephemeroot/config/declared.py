"""Persistent paths, looked up: absolute paths, stores, numbers instead of names."""

from __future__ import annotations

from dataclasses import dataclass

from ephemeroot.config.syntax.problem import Place
from ephemeroot.config.syntax.settings import DirectoryOptions, Options

OURS = "/etc/ephemeroot"
"""Persisted without being declared: a machine that forgets its configuration wipes no more."""

WELL_KNOWN = {
    "/root": 0o700,
    "/tmp": 0o1777,  # the path itself is meant
    "/var/tmp": 0o1777,
    "/var/lib/private": 0o700,
    "/var/cache/private": 0o700,
    "/var/log/private": 0o700,
}
"""Modes of directories that must not be made 0755 (systemd's tmpfiles.d, DynamicUser=)."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Numbers for something new."""

    user: int
    group: int
    mode: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for, as numbers; ``None`` leaves it to the default."""

    user: int | None = None
    group: int | None = None
    mode: int | None = None

    @property
    def is_given(self) -> bool:
        """Whether anything was asked for."""
        return (self.user, self.group, self.mode) != (None, None, None)

    def over(self, default: Owner) -> Owner:
        """It, and *default* for the rest."""
        return Owner(
            default.user if self.user is None else self.user,
            default.group if self.group is None else self.group,
            default.mode if self.mode is None else self.mode,
        )


@dataclass(frozen=True, slots=True)
class Home:
    """A user's home, in which parents of declared paths belong to the user."""

    path: str
    user: int
    group: int


@dataclass(frozen=True, slots=True)
class Declared:
    """A directory or file that persists in ``store``.

    ``path`` is where the next boot's root has it, ``live`` where the live root has it; both are
    without symbolic links on the way. ``declared`` is the path as written.
    ``owner`` is for when the store does not have it yet; a file's has only what was asked
    for. ``parent`` is what was asked for the directory it is in, at ``parent_place``. ``given``
    are the keys that were written, without the path's.
    """

    path: str
    live: str
    store: str
    owner: Wanted
    parent: Wanted
    parent_place: Place
    options: Options
    place: Place
    declared: str
    source: str
    given: frozenset[str] = frozenset()

    @property
    def is_directory(self) -> bool:
        """Whether a directory is declared, else a file."""
        return isinstance(self.options, DirectoryOptions)

    @property
    def in_store(self) -> str:
        """Where the store has it, as a path of the machine."""
        return f"{self.store.rstrip('/')}/{self.source}"

    @property
    def shown(self) -> str:
        """The path for messages: as it was written, and what it leads to."""
        if self.declared == self.path:
            return self.path
        return f"{self.declared} (which leads to {self.path})"
