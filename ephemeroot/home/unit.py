"""The unit of the user's systemd that applies the configuration at login."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import ephemeroot
from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.home import fuse
from ephemeroot.home.user import User
from ephemeroot.linux import paths

NAME = "ephemeroot-home.service"

INSTALLED = ("/etc/systemd/user", "/run/systemd/user", "/usr/local/lib/systemd/user",
             "/usr/lib/systemd/user")  # fmt: skip
"""The path of a packaged unit (systemd.unit(5)), which makes a copy unnecessary."""

_HEADER = "# Installed by 'ephemeroot home enable'; 'ephemeroot home disable' removes it.\n"
_PROGRAM = "/usr/bin/ephemeroot"
_CONDITION = "ConditionPathExists=%E/ephemeroot/home.toml"
_WANTED_BY = "basic.target"


class Unit:
    """The unit of *user*, installed or not."""

    def __init__(self, user: User, program: str, configuration: str | None) -> None:
        """*program* is the absolute path of ``ephemeroot``, *configuration* a file other than the
        user's ``home.toml``, if one is used.
        """
        self.user = user
        self.program = program
        self.configuration = configuration
        folder = Path(user.config_home, "systemd", "user")
        self.file = folder / NAME
        self.link = folder / f"{_WANTED_BY}.wants" / NAME

    def text(self) -> str:
        """The content of the unit file."""
        template = Path(ephemeroot.__path__[0], "systemd", "user", NAME)
        text = template.read_text(encoding="utf-8")
        options = ""
        if self.configuration is not None:
            options = f" --config {_argument(self.configuration)}"
            condition = self.configuration.replace("%", "%%")
            text = text.replace(_CONDITION, f"ConditionPathExists={condition}")
        text = text.replace(f"{_PROGRAM} home", f"{_argument(self.program)} home{options}")
        variable = f"XDG_STATE_HOME={self.user.state_home}"
        if self.user.state_home != f"{self.user.home}/.local/state":
            # The user's systemd does not read the shell's profile, which sets such variables.
            text = text.replace("[Service]\n", f"[Service]\nEnvironment={_quoted(variable)}\n")
        return _HEADER + text

    def target(self) -> Path:
        """The unit file to use: a packaged one if it has the same content."""
        for folder in INSTALLED:
            packaged = Path(folder, NAME)
            if packaged.exists() and _HEADER + packaged.read_text(encoding="utf-8") == self.text():
                return packaged
        return self.file

    def enable(self) -> list[str]:
        """Install and enable the unit; returns the changes in words. Nothing is started.

        Raises ``Refused`` if there is a unit of that name that we did not install.
        """
        self._require_ours()
        done = []
        target = self.target()
        if target == self.file:
            if not self.file.exists() or self.file.read_text(encoding="utf-8") != self.text():
                self.file.parent.mkdir(parents=True, exist_ok=True)
                paths.write_atomically(str(self.file), self.text().encode(), 0o644)
                done.append(f"installed {self.file}")
        leads = os.path.relpath(self.file, self.link.parent) if target == self.file else str(target)
        if not self.link.is_symlink() or os.readlink(self.link) != leads:
            self.link.parent.mkdir(parents=True, exist_ok=True)
            self.link.unlink(missing_ok=True)
            self.link.symlink_to(leads)
            done.append(f"linked {self.link} to {leads}")
        return done

    def disable(self) -> list[str]:
        """Undo ``enable``; returns the changes. Mounts stay."""
        self._require_ours()
        done = []
        for path in (self.link, self.file):
            if os.path.lexists(path):
                path.unlink()
                done.append(f"removed {path}")
        if self.link.parent.is_dir() and not any(self.link.parent.iterdir()):
            self.link.parent.rmdir()
        return done

    def _require_ours(self) -> None:
        hint = "move it away, or maintain it yourself"
        if os.path.lexists(self.file):
            if self.file.is_symlink() or not self.file.read_text().startswith(_HEADER):
                raise Refused(
                    f"{self.file} was changed after 'ephemeroot home enable' installed it", hint
                )
        if os.path.lexists(self.link) and not self.link.is_symlink():
            raise Refused(f"{self.link} is not a link", hint)


def reload() -> EphemerootError | None:
    """Reload the user's systemd, if it runs; returns the error, if any."""
    systemctl = fuse.find("systemctl")
    if systemctl is None or not os.path.isdir(f"/run/user/{os.getuid()}/systemd"):
        return None
    environment = {**os.environ, "XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}"}
    done = subprocess.run(
        [systemctl, "--user", "daemon-reload"], env=environment, capture_output=True, text=True
    )
    if done.returncode == 0:
        return None
    return EphemerootError(
        f"cannot reload the user's systemd: {done.stderr.strip()}",
        "run 'systemctl --user daemon-reload'",
    )


def _quoted(text: str) -> str:
    """*text* as one word in a unit file (systemd.syntax(7), "Quoting")."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if escaped != text or set(text) & set(" \t';") else text


def _argument(text: str) -> str:
    """*text* as one argument in a unit file (systemd.service(5), "Command lines")."""
    return _quoted(text).replace("$", "$$")
