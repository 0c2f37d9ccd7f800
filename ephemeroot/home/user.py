"""The user of the home, and the paths of that user's configuration and state."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass

from ephemeroot.errors import Misconfigured

CONFIGURATION = "ephemeroot/home.toml"
"""Relative to ``$XDG_CONFIG_HOME``."""

STATE = "ephemeroot/home.json"
"""Relative to ``$XDG_STATE_HOME``."""


@dataclass(frozen=True, slots=True)
class User:
    """A user and the user's directories, all absolute (XDG Base Directory Specification).

    ``home`` has its symlinks resolved, so that it can be compared with mount points.
    """

    uid: int
    name: str
    home: str
    config_home: str
    state_home: str

    @classmethod
    def current(cls, environment: Mapping[str, str] = os.environ) -> User:
        """The user who runs this process.

        Raises ``Misconfigured`` if ``$HOME`` is not a home of that user: under sudo it may belong
        to another user, who would then own files of root.
        """
        uid = os.getuid()
        try:
            account = pwd.getpwuid(uid)
        except KeyError:
            raise Misconfigured(
                f"the user {uid} has no account", "check it with 'getent passwd'"
            ) from None
        named = os.path.normpath(environment.get("HOME") or account.pw_dir)
        home = os.path.realpath(named)
        if home == "/" or not os.path.isdir(home):
            raise Misconfigured(
                f"the home {home} is not a usable directory", "set HOME to an existing directory"
            )
        if os.stat(home).st_uid != uid:
            raise Misconfigured(
                f"the home {home} does not belong to {account.pw_name}",
                "run the command as the owner of the home, without sudo",
            )
        return cls(
            uid=uid,
            name=account.pw_name,
            home=home,
            config_home=_directory(environment, "XDG_CONFIG_HOME", ".config", named, home),
            state_home=_directory(environment, "XDG_STATE_HOME", ".local/state", named, home),
        )

    @property
    def configuration(self) -> str:
        """The file with the user's declarations."""
        return f"{self.config_home}/{CONFIGURATION}"

    @property
    def state(self) -> str:
        """The file of the record."""
        return f"{self.state_home}/{STATE}"

    def short(self, path: str) -> str:
        """*path* as the user writes it, with ``~`` for the home."""
        if path == self.home:
            return "~"
        return f"~{path[len(self.home) :]}" if path.startswith(f"{self.home}/") else path


def _directory(
    environment: Mapping[str, str], variable: str, default: str, named: str, home: str
) -> str:
    path = environment.get(variable, "")
    # "All paths set in these environment variables must be absolute. If [not], the
    # implementation should consider the path invalid and ignore it."
    if not path.startswith("/"):
        return f"{home}/{default}"
    path = os.path.normpath(path)
    return home + path[len(named) :] if path.startswith(f"{named}/") else path
