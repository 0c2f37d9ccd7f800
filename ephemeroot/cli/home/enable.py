"""``ephemeroot home enable`` and ``disable``: the user unit that runs ``home apply`` at login."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from ephemeroot import terminal
from ephemeroot.cli import output, own_path
from ephemeroot.config.syntax import clean
from ephemeroot.errors import Misconfigured
from ephemeroot.home import unit
from ephemeroot.home.reader import read
from ephemeroot.home.unit import Unit
from ephemeroot.home.user import User


def enable(arguments: argparse.Namespace, user: User) -> int:
    """Install the user unit."""
    configuration = read(user, arguments.config)
    configuration.require_valid()
    named = None if arguments.config is None else os.path.abspath(arguments.config)
    if named is None and configuration.file != f"{user.home}/.config/ephemeroot/home.toml":
        named = configuration.file  # the user's systemd may not know XDG_CONFIG_HOME
    made = Unit(user, own_path.find(arguments.program), named)
    for entry in configuration.entries:
        if entry.is_mounted and clean.is_below(str(made.file), entry.target):
            raise Misconfigured(
                f"cannot mount {user.short(entry.target)} at login: it would hide the unit that "
                f"mounts it ({entry.place})",
                f"declare its other directories, without {made.file.parent}",
            )
    if arguments.dry_run:
        return _say_done(arguments, "enable", [f"install {made.file}", f"link {made.link}"])
    _say_done(arguments, "enable", made.enable() or ["already enabled"])
    if arguments.json:
        return _reload()
    terminal.say(
        f"home.toml is applied at each login; run 'systemctl --user start {unit.NAME}' to apply it "
        "now"
    )
    if made.program.startswith(f"{user.home}/"):
        terminal.warning(
            f"the program {made.program} is in the home", "make sure that it exists at login"
        )
    terminal.say(
        "if a boot wipes the home, the system's configuration must declare "
        f"{user.short(configuration.file)} and {user.short(str(made.file.parent))}"
    )
    return _reload()


def disable(arguments: argparse.Namespace, user: User) -> int:
    """Remove the user unit."""
    made = Unit(user, "", None)
    if arguments.dry_run:
        present = [path for path in (made.link, made.file) if os.path.lexists(path)]
        return _say_done(arguments, "disable", [f"remove {path}" for path in present])
    _say_done(arguments, "disable", made.disable() or ["not enabled"])
    return _reload()


def _reload() -> int:
    if failed := unit.reload():
        terminal.warning(failed.message, failed.hint)
    return 0


def _say_done(arguments: argparse.Namespace, action: str, lines: Sequence[str]) -> int:
    if arguments.json:
        content = {"changes": list(lines), "dry-run": arguments.dry_run}
        output.print_json(f"home-{action}", content)
        return 0
    for line in lines:
        terminal.say(line)
    return 0
