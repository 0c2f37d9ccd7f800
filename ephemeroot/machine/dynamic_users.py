"""Directories of services with DynamicUser=, which systemd keeps in ``private`` (systemd.exec(5)).

At each start of the service, systemd creates /var/lib/private/NAME, and /var/lib/NAME as a link to
it. It renames an existing directory /var/lib/NAME first, which fails with EBUSY on a mount point
(systemd, src/core/exec-invoke.c, setup_exec_directory).
"""

from __future__ import annotations

from dataclasses import dataclass

from ephemeroot.machine.units import is_true, units_of

_PARENTS = {
    "StateDirectory": "/var/lib", "CacheDirectory": "/var/cache", "LogsDirectory": "/var/log",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class DynamicDirectory:
    """A directory known as ``path``, whose real path is ``private``. ``service`` is the unit."""

    path: str
    private: str
    service: str


def directories(root: int) -> dict[str, DynamicDirectory]:
    """The directories of all services in the open root directory *root*, by ``path``."""
    found: dict[str, DynamicDirectory] = {}
    for unit in units_of(root, (".service",)):
        if not is_true(unit.last("DynamicUser")):
            continue
        service = unit.path.rpartition("/")[2]
        for setting, above in _PARENTS.items():
            for word in " ".join(unit.lists.get(setting, ())).split():
                name = word.partition(":")[0].strip('"/')
                if name and "%" not in name:  # specifiers depend on the instance
                    path = f"{above}/{name}"
                    private = f"{above}/private/{name}"
                    found.setdefault(path, DynamicDirectory(path, private, service))
    return found
