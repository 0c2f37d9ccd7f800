"""``ephemeroot check``: all problems of the configuration in one run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ephemeroot import terminal
from ephemeroot.cli import access, output
from ephemeroot.config import (
    Configuration,
    Examination,
    Machine,
    Problem,
    examine,
    hosts,
    nested,
    read,
)
from ephemeroot.config.syntax.problem import ordered
from ephemeroot.errors import Damaged
from ephemeroot.hooks.plan import Plan
from ephemeroot.image import age
from ephemeroot.image.generators import installed
from ephemeroot.init import boot_loader
from ephemeroot.machine import python_modules
from ephemeroot.machine.root import fstab_lines
from ephemeroot.plan import applied
from ephemeroot.plan.compile import compile_examination
from ephemeroot.status import obstacles


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own arguments."""
    access.declare(parser, access.NOTHING)
    hosts.configure(parser)
    parser.set_defaults(paged=True)


def run(arguments: argparse.Namespace) -> int:
    """Exit code 2 if there are errors; 0 if there are only warnings, or no problems."""
    machine = hosts.machine(arguments)
    config = read(machine, arguments.config)
    examination = examine(config, machine)
    plan = None
    if not (machine.another or examination.errors):
        plan = compile_examination(examination).plan
    problems = ordered([
        *examination.problems,
        *nested.warnings(examination),
        *_obstacles(examination, plan),
        *_omissions(examination),
        *_missing_modules(examination),
        *_missing_parts(examination, plan),
        *_boot_loader(examination),
        *_outdated(examination, plan),
    ])  # fmt: skip
    if arguments.json:
        _print_json(config, machine, problems)
    else:
        for line in hosts.describe(config, machine):
            terminal.say(line)
        _print(config.files, problems)
    return output.MISCONFIGURED if _errors(problems) else output.DONE


def _omissions(examination: Examination) -> list[Problem]:
    """Errors of the images, for which ``apply`` refuses to build them."""
    if examination.machine.another or examination.config.wiping is None:
        return []
    return [
        Problem(omission.place, "", omission.reason, omission.hint)
        for omission in installed.omissions(Path(examination.machine.root))
    ]


def _obstacles(examination: Examination, plan: Plan | None) -> list[Problem]:
    """A warning for each check that the next boot would fail. A missing base is only a warning:
    ``base create`` needs a configuration that names it.
    """
    if plan is None:
        return []
    places = {volume.mount_point: volume.place for volume in examination.volumes}
    wiping = examination.config.wiping
    problems = []
    for one in obstacles.look(examination.machine.root, plan):
        if one.target == "/" and wiping is not None:
            place = wiping.origin.of("base") if one.is_base else wiping.origin.place
        else:
            place = places[one.target]
        problems.append(Problem.at(place, one.reason, one.hint, warning=True))
    return problems


def _boot_loader(examination: Examination) -> list[Problem]:
    """Errors of the boot loader's configuration, with which it would not boot the new images."""
    wiping = examination.config.wiping
    if wiping is None or examination.config.external_boot or examination.machine.another:
        return []
    found = boot_loader.findings(examination.machine)
    return [Problem.at(wiping.origin.place, one.text, one.hint) for one in found]


def _missing_modules(examination: Examination) -> list[Problem]:
    """Errors for missing Python modules of the wipers, without which no image can be built."""
    if examination.machine.another:
        return []
    wipings = [examination.config.wiping, *(volume.wipe for volume in examination.volumes)]
    found: dict[str, Problem] = {}
    for wiping in wipings:
        if wiping is None or wiping.plugin is None:
            continue
        for name in python_modules.of_wiper(wiping.plugin.wiper, wiping.settings):
            if python_modules.is_missing(name):
                found[name] = Problem.at(
                    wiping.origin.place,
                    f"the Python module {name} is not installed: the wiper {wiping.wiper} needs it",
                    python_modules.how_to_install(name, examination.machine.root),
                    # The images of another machine's root may be built elsewhere.
                    warning=not examination.machine.live,
                )
    return list(found.values())


def _missing_parts(examination: Examination, plan: Plan | None) -> list[Problem]:
    """Errors for missing parts of other packages that an image needs to mount a filesystem."""
    machine, wiping = examination.machine, examination.config.wiping
    generator = None if machine.another else installed.on(machine.root)
    if generator is None or wiping is None:
        return []
    types = {volume.type for volume in examination.volumes if volume.needed_for_boot}
    if machine.root_mount is not None:
        types.add(machine.root_mount.fstype)
    else:
        types |= {line.type for line in fstab_lines(machine)}
    return [
        Problem.at(
            wiping.origin.place,
            f"{one.reason}; without it an image cannot boot with this configuration",
            one.command.removeprefix("# ") if one.command[0] == "#" else f"run '{one.command}'",
            warning=not machine.live,
        )
        for one in generator.missing(machine.root, types, plan)
    ]


def _outdated(examination: Examination, compiled: Plan | None) -> list[Problem]:
    """Warnings if the applied plan or an image is older than the configuration."""
    if examination.machine.another:
        return []
    root = Path(examination.machine.root)
    file, hint = str(applied.path(root)), "run 'ephemeroot apply'"
    try:
        plan = applied.load(root)
        lines = age.findings(root)
    except (Damaged, OSError) as error:
        reason = error.message if isinstance(error, Damaged) else str(error.strerror)
        return [Problem(file, "", f"cannot read the applied plan: {reason}", hint, warning=True)]
    if plan is None:
        return []
    if compiled is not None and not applied.are_equivalent(plan, compiled):
        lines.insert(0, f"the applied generation {plan.generation} differs from the configuration")
    return [Problem(file, "", line, hint, warning=True) for line in lines]


def _print(files: Sequence[str], problems: Sequence[Problem]) -> None:
    terminal.problems(problems, sys.stdout)
    errors = _errors(problems)
    read_from = terminal.count(len(files), "file")
    if not problems:
        terminal.say(f"{read_from} checked: no problems")
        return
    counts = (
        f"{terminal.count(errors, 'error')}, {terminal.count(len(problems) - errors, 'warning')}"
    )
    terminal.say(f"{read_from} checked: {counts}")


def _print_json(config: Configuration, machine: Machine, problems: Sequence[Problem]) -> None:
    content = {
        "host": machine.host_name,
        "machine-id": machine.machine_id,
        "files": list(config.files),
        "for-other-machines": list(config.elsewhere),
        "errors": _errors(problems),
        "warnings": len(problems) - _errors(problems),
        "problems": [problem.to_json() for problem in problems],
    }
    output.print_json("check", content)


def _errors(problems: Sequence[Problem]) -> int:
    return sum(not problem.warning for problem in problems)
