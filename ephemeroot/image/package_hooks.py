"""The files that ``ephemeroot setup`` installs for a package manager: hooks that call
``ephemeroot package-change``, and a condition for the units of automatic upgrades.
"""

from __future__ import annotations

from ephemeroot.image import data, units
from ephemeroot.image.installation import PROGRAM, Item

# By package manager: files of ephemeroot/package_hooks, where they are installed, and their modes.
# apt.conf(5); alpm-hooks(5); libdnf5-actions(8) and dnf-post-transaction-actions(8), of which a
# system has one or the other; libzypp's page on commit plugins.
_HOOKS: dict[str, tuple[tuple[str, str, int], ...]] = {
    "apt": (("apt.conf", "/etc/apt/apt.conf.d/80ephemeroot", 0o644),),
    "dnf": (
        ("dnf5.actions", "/etc/dnf/libdnf5-plugins/actions.d/ephemeroot.actions", 0o644),
        ("dnf4.action", "/etc/dnf/plugins/post-transaction-actions.d/ephemeroot.action", 0o644),
    ),
    "pacman": (
        ("pacman-before.hook", "/usr/share/libalpm/hooks/00-ephemeroot-packages.hook", 0o644),
        ("pacman-after.hook", "/usr/share/libalpm/hooks/zz-ephemeroot-packages.hook", 0o644),
    ),
    "zypper": (("zypp", "/usr/lib/zypp/plugins/commit/ephemeroot", 0o755),),
}
# unattended-upgrades, dnf-automatic of dnf 4, and of dnf 5.
_AUTOMATIC = {
    "apt": ("apt-daily-upgrade.service",),
    "dnf": ("dnf-automatic.service", "dnf-automatic-install.service", "dnf5-automatic.service"),
}


def items(manager: str, program: str) -> list[Item]:
    """The files for the package manager called *manager* (``apt``), which call *program*."""
    found = [
        Item(where, _text(name, program), mode) for name, where, mode in _HOOKS.get(manager, ())
    ]
    text = _text("unattended.conf", program)
    found += [
        Item(f"{units.FOLDER}/{unit}.d/50-ephemeroot.conf", text)
        for unit in _AUTOMATIC.get(manager, ())
    ]
    return found


def _text(name: str, program: str) -> bytes:
    text = (data.folder("package_hooks") / name).read_text(encoding="utf-8")
    return text.replace(PROGRAM, program).encode()
