"""Declared paths after the look-up: absolute paths, stores, ids instead of names."""

from __future__ import annotations

from dataclasses import dataclass

from ephemeroot.config.syntax.problem import Place
from ephemeroot.config.syntax.settings import DirectoryOptions, Options

OURS = "/etc/ephemeroot"
"""Always persistent, also undeclared: without its configuration, a machine would no longer wipe."""

WELL_KNOWN = {
    "/root": 0o700,
    "/tmp": 0o1777,  # a key of the table, not a temporary file
    "/var/tmp": 0o1777,
    "/var/lib/private": 0o700,
    "/var/cache/private": 0o700,
    "/var/log/private": 0o700,
}
"""Modes of directories that must not be made 0755 (systemd's tmpfiles.d, DynamicUser=)."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Owner and mode of a new file or directory."""

    user: int
    group: int
    mode: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """The configured owner and mode; ``None`` is the default."""

    user: int | None = None
    group: int | None = None
    mode: int | None = None

    @property
    def is_given(self) -> bool:
        """Whether any of them is configured."""
        return (self.user, self.group, self.mode) != (None, None, None)

    def over(self, default: Owner) -> Owner:
        """The configured values, and *default* for the others."""
        return Owner(
            default.user if self.user is None else self.user,
            default.group if self.group is None else self.group,
            default.mode if self.mode is None else self.mode,
        )


@dataclass(frozen=True, slots=True)
class Home:
    """A user's home. The user owns parents of declared paths in it."""

    path: str
    user: int
    group: int


@dataclass(frozen=True, slots=True)
class Declared:
    """A declared directory or file, which persists in ``store``.

    ``path`` is its path in the next root, ``live`` its path in the live root, both with symbolic
    links resolved. ``declared`` is the path in the configuration. ``owner`` is used if the store
    does not have it yet, and has only configured values for a file. ``parent`` has the configured
    values for the directory above it, from ``parent_place``. ``given`` are the configured keys
    without the path.
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
        """Whether it is a directory and not a file."""
        return isinstance(self.options, DirectoryOptions)

    @property
    def in_store(self) -> str:
        """Its path in the store, as a path of the machine."""
        return f"{self.store.rstrip('/')}/{self.source}"

    @property
    def shown(self) -> str:
        """The path for messages: as in the configuration, and with symbolic links resolved."""
        if self.declared == self.path:
            return self.path
        return f"{self.declared} (which leads to {self.path})"
