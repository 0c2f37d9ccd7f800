"""The distributions' package managers: how to tell which one a system has, what it is called with,
and what it says is installed.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ephemeroot.errors import EphemerootError

UPGRADE, INSTALL, REMOVE = "upgrade", "install", "remove"


@dataclass(frozen=True, slots=True)
class PackageManager:
    """``program`` is its path in a system that has it.

    ``refresh`` is run first, before an upgrade and an installation. ``actions`` maps ``UPGRADE``,
    ``INSTALL`` and ``REMOVE`` to words, after which the packages stand; ``unattended`` are put
    behind the program if no questions may be asked. ``listing`` prints a line for each package, its
    name, its version and perhaps its state; ``{}`` is the system's root. ``scratch`` are paths of
    lists, logs and locks: a run that writes only there has changed nothing. ``databases`` are
    the paths of package databases: a system of that package manager has one of them.
    """

    name: str
    program: str
    actions: dict[str, tuple[str, ...]]
    unattended: tuple[str, ...]
    listing: tuple[str, ...]
    scratch: tuple[str, ...]
    databases: tuple[str, ...]
    refresh: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()

    def command(self, action: str, packages: Sequence[str] = (), *, attended: bool) -> list[str]:
        """The words that do *action*; not *attended*: nothing is asked."""
        options = () if attended else self.unattended
        words = [self.program, *options, *self.actions[action], *packages]
        if self.refresh and action != REMOVE:
            # The package names are arguments of the shell and never part of its text.
            words = ["sh", "-c", '"$1" ' + " ".join(self.refresh) + ' && exec "$@"', "sh", *words]
        if not attended and self.environment:
            words = ["env", *(f"{key}={value}" for key, value in self.environment), *words]
        return words

    def installed(self, root: str) -> dict[str, str]:
        """The version of each package that is installed in the system at *root*, by its name.
        Raises ``EphemerootError`` if that cannot be told.
        """
        words = [word.replace("{}", root) for word in self.listing]
        try:
            done = subprocess.run(words, capture_output=True, text=True, errors="replace")
        except FileNotFoundError:
            raise EphemerootError(f"the program {words[0]} is not installed") from None
        if done.returncode != 0:
            said = done.stderr.strip().rpartition("\n")[2]
            raise EphemerootError(f"{words[0]} cannot list the packages in {root}: {said}")
        lines = [line.split() for line in done.stdout.splitlines()]
        return {words[0]: words[1] for words in lines if len(words) > 1 and _is_there(words[2:])}


def _is_there(state: Sequence[str]) -> bool:
    """dpkg also lists removed packages (dpkg-query(1), package status); the others do not."""
    return not state or state[0] not in ("not-installed", "config-files")


_RPM = ("rpm", "--root", "{}", "-qa", "--qf", "%{NAME}.%{ARCH} %{EVR}\\n")
_RPM_DATABASES = ("/usr/lib/sysimage/rpm", "/var/lib/rpm")
# Reading the database makes them: a lock of rpm(8)'s, and SQLite's files beside its own.
_RPM_SCRATCH = tuple(
    f"{folder}/{name}"
    for folder in _RPM_DATABASES
    for name in (".rpm.lock", "rpmdb.sqlite-shm", "rpmdb.sqlite-wal")
)

# apt-get(8), dpkg(1): with both --force options a configuration file that was changed stays, and
# nothing is asked. zypper(8), pacman(8), dnf(8): `dup` is Tumbleweed's way and Leap's too where the
# repositories are of one release (transactional-update(8) does the same).
MANAGERS = (
    PackageManager(
        "apt",
        "/usr/bin/apt-get",
        {UPGRADE: ("dist-upgrade",), INSTALL: ("install",), REMOVE: ("remove",)},
        ("-y", "-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"),
        (
            "dpkg-query", "--admindir={}/var/lib/dpkg", "-W", "-f",
            "${binary:Package} ${Version} ${db:Status-Status}\n",
        ),
        (
            "/var/cache/apt", "/var/lib/apt/lists", "/var/lib/apt/periodic", "/var/lib/dpkg/lock",
            "/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/triggers/Lock", "/var/log",
        ),
        ("/var/lib/dpkg/status",),
        refresh=("update",),
        environment=(("DEBIAN_FRONTEND", "noninteractive"),),
    ),
    PackageManager(
        "dnf",
        "/usr/bin/dnf",
        {
            UPGRADE: ("upgrade", "--refresh"),
            INSTALL: ("install",),
            REMOVE: ("remove",),
        },
        ("-y",),
        _RPM,
        ("/var/cache/dnf", "/var/cache/libdnf5", "/var/log", *_RPM_SCRATCH),
        _RPM_DATABASES,
    ),
    PackageManager(
        "zypper",
        "/usr/bin/zypper",
        {
            UPGRADE: ("dist-upgrade",),
            INSTALL: ("install",),
            REMOVE: ("remove",),
        },
        ("--non-interactive",),
        _RPM,
        ("/var/cache/zypp", "/var/cache/zypper", "/var/log", *_RPM_SCRATCH),
        _RPM_DATABASES,
    ),
    PackageManager(
        "pacman",
        "/usr/bin/pacman",
        {
            UPGRADE: ("-Syu",),
            # A refresh without an upgrade is a partial upgrade, which Arch does not support.
            INSTALL: ("-Syu", "--needed"),
            REMOVE: ("-Rs",),
        },
        ("--noconfirm",),
        ("pacman", "--dbpath", "{}/var/lib/pacman", "-Q"),
        ("/var/cache/pacman", "/var/lib/pacman/sync", "/var/log"),
        ("/var/lib/pacman/local",),
    ),
)  # fmt: skip


def changed(
    before: dict[str, str], after: dict[str, str]
) -> dict[str, tuple[str | None, str | None]]:
    """The versions *before* and *after* of each package that has changed, by its name; ``None``
    where it is not installed.
    """
    found = {}
    for name in sorted({*before, *after}):
        versions = before.get(name), after.get(name)
        if versions[0] != versions[1]:
            found[name] = versions
    return found


def of(root: str | Path) -> PackageManager:
    """The one that the system at *root* is made of. Raises ``EphemerootError`` for none.

    The database decides, not the program: Debian packages all of these programs.
    """
    for manager in MANAGERS:
        if Path(f"{root}{manager.program}").exists() and any(
            Path(f"{root}{place}").exists() for place in manager.databases
        ):
            return manager
    known = ", ".join(one.name for one in MANAGERS)
    raise EphemerootError(
        f"no package manager is known for this system (known: {known})",
        "run any command in the base with 'ephemeroot base run -- COMMAND'",
    )
