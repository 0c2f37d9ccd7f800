"""Services of two roots: which are enabled, their users, and their state directories."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_FOLDERS = ("etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")
_STATE = {"StateDirectory": "/var/lib", "LogsDirectory": "/var/log",
          "ConfigurationDirectory": "/etc"}  # fmt: skip


class Services:
    """The units of the present root ``live`` and of the ``fresh`` root."""

    def __init__(self, live: Path, fresh: Path) -> None:
        self.live = live
        self.fresh = fresh

    def enabled(self, root: Path) -> set[str]:
        """The services that a unit on *root* wants or requires."""
        names: set[str] = set()
        folder = root / _FOLDERS[0]
        try:
            wanting = [f for f in folder.iterdir() if f.name.endswith((".wants", ".requires"))]
        except OSError:
            return names
        for one in wanting:
            names |= {link.name for link in one.iterdir() if link.name.endswith(".service")}
        return {name for name in names if not name.startswith("ephemeroot-")}

    def _unit_text(self, name: str) -> str:
        template = re.sub(r"@.*\.", "@.", name)
        for root in (self.live, self.fresh):
            for folder in _FOLDERS:
                for file in (name, template):
                    path = root / folder / file
                    if path.is_file() and not path.is_symlink():
                        drop_ins = sorted((root / folder / f"{file}.d").glob("*.conf"))
                        return "\n".join(p.read_text(errors="replace") for p in [path, *drop_ins])
        return ""

    def user(self, name: str) -> str:
        """The value of ``User=``; empty if the service has none."""
        return (self._settings(name).get("User") or [""])[-1]

    def _settings(self, name: str) -> dict[str, list[str]]:
        settings: dict[str, list[str]] = {}
        for line in self._unit_text(name).splitlines():
            key, equals, value = line.strip().partition("=")
            if equals and not key.startswith(("#", ";")):
                settings.setdefault(key, []).append(value.strip())
        return settings

    def is_dynamic(self, name: str) -> bool:
        """Whether the service has ``DynamicUser=`` set."""
        return (self._settings(name).get("DynamicUser") or ["no"])[-1].lower() in (
            "1", "yes", "true", "on",
        )  # fmt: skip

    def state_paths(self, name: str) -> Iterable[str]:
        """The service's state, log and configuration directories (systemd.exec(5))."""
        settings = self._settings(name)
        for key, top in _STATE.items():
            for value in settings.get(key, ()):
                for word in value.split():
                    folder = word.partition(":")[0].strip('"')
                    if "%" in folder or folder.startswith("/"):
                        continue
                    private = f"{top}/private/{folder}"
                    if self.is_dynamic(name) and top != "/etc":
                        yield private
                    else:
                        yield f"{top}/{folder}"

    def made_users(self) -> set[str]:
        """Users that systemd-sysusers creates at each boot (sysusers.d(5))."""
        made: set[str] = set()
        for folder in ("usr/lib/sysusers.d", "etc/sysusers.d"):
            for file in sorted((self.fresh / folder).glob("*.conf")):
                for line in file.read_text(errors="replace").splitlines():
                    fields = line.split()
                    if len(fields) > 1 and fields[0] in ("u", "u!"):
                        made.add(fields[1])
        return made
