"""``ephemeroot home``: what persists below a user's home, run by that user."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from ephemeroot import terminal
from ephemeroot.cli import access, home_listing, output
from ephemeroot.config.syntax import clean
from ephemeroot.errors import Misconfigured
from ephemeroot.home import requirements, unit
from ephemeroot.home.application import Application, exclusive
from ephemeroot.home.exposure import exposures
from ephemeroot.home.model import HomeConfiguration
from ephemeroot.home.reader import read
from ephemeroot.home.unit import Unit
from ephemeroot.home.user import User

WAIT = 5.0
"""Seconds for which unmounting is tried again, unless ``--wait`` says otherwise."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their arguments."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    apply = _action(actions, "apply", _apply, "mount and link declared paths, and undo the others")
    _changes(apply)
    stop = _action(actions, "stop", _stop, "unmount the binds; links stay")
    stop.add_argument("--all", action="store_true", help="remove the links and directories, too")
    _changes(stop)
    status = _action(
        actions, "status", _status, "show each entry: mounted, linked, missing, in the way"
    )
    check = _action(
        actions, "check", _check, "look for mistakes and for missing requirements of this machine"
    )
    enable = _action(actions, "enable", _enable, "apply at every login: install the user unit")
    disable = _action(actions, "disable", _disable, "remove the user unit")
    access.declare(apply, "the home directory and the store")
    for action in (stop, enable, disable):
        access.declare(action, "the home directory")
    for action in (status, check):
        access.declare(action, access.NOTHING)
    for action in (enable, disable):
        action.add_argument("--dry-run", action="store_true", help="only print what would be done")
    enable.add_argument(
        "--program", metavar="PATH", help="the program that the unit calls (default: this)"
    )


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    act: object,
    help_: str,
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=help_, description=help_)
    parser.set_defaults(act=act)
    parser.add_argument(
        "--config",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="read this file (default: ~/.config/ephemeroot/home.toml)",
    )
    output.add_option(parser)
    return parser


def _changes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only print what would be done")
    parser.add_argument(
        "--wait",
        metavar="SECONDS",
        type=_seconds,
        default=WAIT,
        help="how long to retry to unmount paths in use before a lazy unmount (default: "
        "%(default)g)",
    )


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 3600")
    return seconds


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0: all is as declared; 10: a part is; 1: nothing is; 2: mistakes."""
    if arguments.root != "/":
        raise Misconfigured("--root cannot be used with home", "run it on the machine itself")
    return int(arguments.act(arguments, User.current()))


def _apply(arguments: argparse.Namespace, user: User) -> int:
    configuration = read(user, arguments.config)
    configuration.require_valid()
    events = home_listing.Events(quiet=arguments.json)
    os.chdir(user.home)  # where we are may be what has to be unmounted
    with exclusive(user):
        application = Application(
            user,
            configuration.entries,
            wait=arguments.wait,
            dry_run=arguments.dry_run,
            listener=events.note,
        )
        _complain_about(application)
        found = application.apply()
        findings = found.findings if arguments.dry_run else application.findings()
    if arguments.json:
        entries = home_listing.findings_json(findings)
        output.print_json("home-apply", {"operations": events.to_json(), "entries": entries})
    else:
        home_listing.warn_of(found.blocked)
        home_listing.print_count(findings, dry_run=arguments.dry_run)
    if arguments.dry_run:
        return 0
    if not events.failed and all(finding.is_in_place for finding in findings):
        return 0
    return output.PARTLY if events.done or any(f.is_in_place for f in findings) else output.FAILED


def _stop(arguments: argparse.Namespace, user: User) -> int:
    configuration = _readable(user, arguments.config)
    events = home_listing.Events(quiet=arguments.json)
    os.chdir(user.home)
    with exclusive(user):
        application = Application(
            user,
            configuration.entries,
            wait=arguments.wait,
            dry_run=arguments.dry_run,
            listener=events.note,
            stops=True,
        )
        _complain_about(application)
        application.stop(everything=arguments.all)
    if arguments.json:
        output.print_json("home-stop", {"operations": events.to_json()})
    elif not events.all:
        terminal.say("nothing is mounted by ephemeroot")
    if events.failed:
        return output.PARTLY if events.done else output.FAILED
    return 0


def _status(arguments: argparse.Namespace, user: User) -> int:
    configuration = read(user, arguments.config)
    configuration.require_valid()
    application = Application(user, configuration.entries, dry_run=True)
    findings = application.findings()
    undeclared = application.undeclared()
    exposed = exposures(configuration.entries, user.home)
    if arguments.json:
        content = {
            "entries": home_listing.findings_json(findings),
            "undeclared": [{"target": t, "source": s} for t, s in undeclared.items()],
            "exposed": home_listing.exposures_json(exposed),
        }
        output.print_json("home-status", content)
    else:
        home_listing.print_table(user, findings, undeclared)
        for one in exposed:
            terminal.warning(one.describe(), f"chmod {one.right_mode:04o} {shlex.quote(one.path)}")
        home_listing.print_count(findings)
    is_right = all(finding.is_in_place for finding in findings) and not undeclared
    return output.DONE if is_right else output.PARTLY


def _check(arguments: argparse.Namespace, user: User) -> int:
    configuration = read(user, arguments.config)
    findings = Application(user, configuration.entries, dry_run=True).findings()
    problems = requirements.examine(user, configuration, findings)
    errors = home_listing.count_errors(problems)
    if arguments.json:
        content = {
            "files": [configuration.file],
            "errors": errors,
            "warnings": len(problems) - errors,
            "problems": [problem.to_json() for problem in problems],
        }
        output.print_json("home-check", content)
    else:
        home_listing.print_problems(configuration, problems)
    return output.MISCONFIGURED if errors else output.DONE


def _enable(arguments: argparse.Namespace, user: User) -> int:
    configuration = read(user, arguments.config)
    configuration.require_valid()
    named = None if arguments.config is None else os.path.abspath(arguments.config)
    if named is None and configuration.file != f"{user.home}/.config/ephemeroot/home.toml":
        named = configuration.file  # the user's systemd may not know XDG_CONFIG_HOME
    made = Unit(user, _program(arguments.program), named)
    for entry in configuration.entries:
        if entry.is_mounted and clean.is_below(str(made.file), entry.target):
            raise Misconfigured(
                f"{user.short(entry.target)} would contain the unit that has to mount it",
                f"declare the directories beside {made.file.parent}; see {entry.place}",
            )
    if arguments.dry_run:
        return _say_done(arguments, "enable", [f"install {made.file}", f"link {made.link}"])
    _say_done(arguments, "enable", made.enable() or ["already enabled"])
    if arguments.json:
        return _reload()
    terminal.say(
        f"it is applied at the next login; to start it now, run: systemctl --user start {unit.NAME}"
    )
    if made.program.startswith(f"{user.home}/"):
        terminal.warning(f"{made.program} is in the home", "it must exist at login")
    terminal.say(
        "if the home does not survive a boot, root must persist "
        f"{user.short(configuration.file)} and {user.short(str(made.file.parent))}"
    )
    return _reload()


def _disable(arguments: argparse.Namespace, user: User) -> int:
    made = Unit(user, "", None)
    if arguments.dry_run:
        there = [path for path in (made.link, made.file) if os.path.lexists(path)]
        return _say_done(arguments, "disable", [f"remove {path}" for path in there])
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


def _program(asked: str | None) -> str:
    """An absolute path that will still be there at the next login."""
    if asked is not None:
        if not asked.startswith("/"):
            raise Misconfigured(f"--program {asked} is not an absolute path")
        return asked
    running = Path(sys.argv[0])
    if running.name == "ephemeroot" and os.access(running, os.X_OK):
        return str(running.absolute())
    found = shutil.which("ephemeroot")
    if found is None:
        raise Misconfigured("the program ephemeroot is not in PATH", "name it with --program")
    return found


def _readable(user: User, config: str | None) -> HomeConfiguration:
    """The configuration as far as it is any use: what is mounted must come off in any case."""
    try:
        return read(user, config)
    except Misconfigured:
        return HomeConfiguration(config or user.configuration)


def _complain_about(application: Application) -> None:
    for complaint in application.damage:
        terminal.warning(
            complaint, "using the links and mounts that can be verified; writing a new record"
        )
