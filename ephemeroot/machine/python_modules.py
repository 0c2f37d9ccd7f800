"""Python modules of other projects, and their packages on each distribution."""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from collections.abc import Mapping

from ephemeroot.wipers.contract import Wiper

_PYPI = {
    "btrfsutil": "btrfsutil",
    "libzfs_core": "pyzfs",
    "pyroute2": "pyroute2",
    "pyudev": "pyudev",
}

# By package manager: its command, and the package of each module. Modules that are not in a list
# are not packaged there. Debian and its derivatives: packages.debian.org; Fedora
# and openSUSE: btrfs-progs.spec builds python3-btrfsutil; Arch: btrfs-progs contains the module.
_DISTRIBUTIONS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("usr/bin/apt-get", "apt install", {
        "btrfsutil": "python3-btrfsutil", "libzfs_core": "python3-pyzfs",
        "pyroute2": "python3-pyroute2", "pyudev": "python3-pyudev",
    }),
    ("usr/bin/dnf", "dnf install", {
        "btrfsutil": "python3-btrfsutil", "libzfs_core": "python3-pyzfs",
        "pyroute2": "python3-pyroute2", "pyudev": "python3-pyudev",
    }),
    ("usr/bin/zypper", "zypper install", {
        "btrfsutil": "python3-btrfsutil", "pyroute2": "python3-pyroute2",
        "pyudev": "python3-pyudev",
    }),
    ("usr/bin/pacman", "pacman -S", {
        "btrfsutil": "btrfs-progs", "pyroute2": "python-pyroute2", "pyudev": "python-pyudev",
    }),
)  # fmt: skip


def is_known(module: str) -> bool:
    """Whether this program uses *module*, of another project."""
    return module.partition(".")[0] in _PYPI


def is_missing(module: str) -> bool:
    """Whether this interpreter cannot find *module*, which is not imported."""
    try:
        return importlib.util.find_spec(module.partition(".")[0]) is None
    except ModuleNotFoundError:
        return True


def of_wiper(wiper: type[Wiper], settings: Mapping[str, object] | None = None) -> list[str]:
    """Modules of other projects that *wiper* needs, by default with its default settings.

    Empty if the wiper cannot report them: building an image for it reports that error.
    """
    own = {option.name: option.default for option in wiper.OPTIONS}
    try:
        names = wiper.needs({**own, **(settings or {})}).python
    except Exception:  # noqa: BLE001  # code of other packages may raise any exception
        return []
    return [name for name in names if is_known(name)]


def how_to_install(module: str, root: str = "/") -> str:
    """The command that installs *module* for this interpreter, as a hint."""
    return f"run '{command(module, root)}'"


def command(module: str, root: str = "/") -> str:
    """The command that installs *module* for this interpreter, on the system at *root*.

    An isolated virtual environment does not see the distribution's packages.
    """
    name = module.partition(".")[0]
    isolated = sys.prefix != sys.base_prefix and not _sees_system_packages()
    if not isolated:
        for program, install, packages in _DISTRIBUTIONS:
            if name in packages and os.path.lexists(os.path.join(root, program)):
                return f"{install} {packages[name]}"
    return f"{shlex.quote(sys.executable)} -m pip install {_PYPI[name]}"


def _sees_system_packages() -> bool:
    try:
        with open(os.path.join(sys.prefix, "pyvenv.cfg"), encoding="utf-8") as file:
            lines = [line.partition("=") for line in file]
    except OSError:
        return False
    return any(
        key.strip() == "include-system-site-packages" and value.strip().lower() == "true"
        for key, _, value in lines
    )
