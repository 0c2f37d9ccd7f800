"""``ephemeroot home``: persistent paths below a user's home, run by that user."""

from __future__ import annotations

import argparse
import os
import shlex

from ephemeroot import terminal
from ephemeroot.cli import access, output
from ephemeroot.cli.home import enable, listing
from ephemeroot.errors import Misconfigured
from ephemeroot.home import requirements
from ephemeroot.home.application import Application, exclusive
from ephemeroot.home.exposure import exposures
from ephemeroot.home.model import HomeConfiguration
from ephemeroot.home.reader import read
from ephemeroot.home.user import User

WAIT = 5.0
"""The default of ``--wait``: seconds for which unmounting is retried."""


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
        actions, "check", _check, "check the configuration and the requirements of this machine"
    )
    enabling = _action(
        actions, "enable", enable.enable, "apply at every login: install the user unit"
    )
    disabling = _action(actions, "disable", enable.disable, "remove the user unit")
    access.declare(apply, "the home directory and the store")
    for action in (stop, enabling, disabling):
        access.declare(action, "the home directory")
    for action in (status, check):
        access.declare(action, access.NOTHING)
    for action in (enabling, disabling):
        action.add_argument("--dry-run", action="store_true", help="only print what would be done")
    enabling.add_argument(
        "--program", metavar="PATH", help="the program that the unit calls (default: this program)"
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
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 3600 seconds")
    return seconds


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0: all entries are in place; 10: only some; 1: no entry; 2: wrong configuration."""
    if arguments.root != "/":
        raise Misconfigured(
            "cannot combine --root with home", "run 'ephemeroot home' on the machine itself"
        )
    return int(arguments.act(arguments, User.current()))


def _application(
    arguments: argparse.Namespace,
    user: User,
    configuration: HomeConfiguration,
    events: listing.Events,
    *,
    stops: bool = False,
) -> Application:
    """The change of the home, after warnings about damaged records of earlier runs."""
    application = Application(
        user,
        configuration.entries,
        wait=arguments.wait,
        dry_run=arguments.dry_run,
        listener=events.note,
        stops=stops,
    )
    _warn_of_damage(application)
    return application


def _apply(arguments: argparse.Namespace, user: User) -> int:
    configuration = read(user, arguments.config)
    configuration.require_valid()
    events = listing.Events(quiet=arguments.json)
    os.chdir(user.home)  # the present directory may be on a mount that is unmounted
    with exclusive(user):
        application = _application(arguments, user, configuration, events)
        found = application.apply()
        findings = found.findings if arguments.dry_run else application.findings()
    if arguments.json:
        entries = listing.findings_json(findings)
        output.print_json("home-apply", {"operations": events.to_json(), "entries": entries})
    else:
        listing.warn_of(found.blocked)
        listing.print_count(findings, dry_run=arguments.dry_run)
    if arguments.dry_run:
        return 0
    if not events.failed and all(finding.is_in_place for finding in findings):
        return 0
    return output.PARTLY if events.done or any(f.is_in_place for f in findings) else output.FAILED


def _stop(arguments: argparse.Namespace, user: User) -> int:
    configuration = _readable(user, arguments.config)
    events = listing.Events(quiet=arguments.json)
    os.chdir(user.home)
    with exclusive(user):
        application = _application(arguments, user, configuration, events, stops=True)
        application.stop(everything=arguments.all)
    if arguments.json:
        output.print_json("home-stop", {"operations": events.to_json()})
    elif not events.all:
        terminal.say("nothing to stop: ephemeroot has mounted nothing in this home")
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
            "entries": listing.findings_json(findings),
            "undeclared": [{"target": t, "source": s} for t, s in undeclared.items()],
            "exposed": listing.exposures_json(exposed),
        }
        output.print_json("home-status", content)
    else:
        listing.print_table(user, findings, undeclared)
        for one in exposed:
            terminal.warning(one.describe(), f"chmod {one.right_mode:04o} {shlex.quote(one.path)}")
        listing.print_count(findings)
    is_right = all(finding.is_in_place for finding in findings) and not undeclared
    return output.DONE if is_right else output.PARTLY


def _check(arguments: argparse.Namespace, user: User) -> int:
    configuration = read(user, arguments.config)
    findings = Application(user, configuration.entries, dry_run=True).findings()
    problems = requirements.examine(user, configuration, findings)
    errors = listing.count_errors(problems)
    if arguments.json:
        content = {
            "files": [configuration.file],
            "errors": errors,
            "warnings": len(problems) - errors,
            "problems": [problem.to_json() for problem in problems],
        }
        output.print_json("home-check", content)
    else:
        listing.print_problems(configuration, problems)
    return output.MISCONFIGURED if errors else output.DONE


def _readable(user: User, config: str | None) -> HomeConfiguration:
    """The configuration, empty if it cannot be read: ``stop`` must unmount in any case."""
    try:
        return read(user, config)
    except Misconfigured:
        return HomeConfiguration(config or user.configuration)


def _warn_of_damage(application: Application) -> None:
    for damage in application.damage:
        terminal.warning(
            f"{damage}; a new record is written from the links and mounts that can be verified"
        )
