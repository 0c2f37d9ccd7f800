"""``ephemeroot setup``: install the initramfs generator's module and the units."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ephemeroot.base import package_managers
from ephemeroot.cli import access, output, own_path, steps
from ephemeroot.config.syntax import clean
from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.image import installation, package_hooks
from ephemeroot.image.generators import installed
from ephemeroot.image.generators.contract import Generator
from ephemeroot.image.installation import Item
from ephemeroot.image.steps import Installation, Removal
from ephemeroot.leave import leaving
from ephemeroot.machine.labelling import New
from ephemeroot.machine.labels import Labels
from ephemeroot.plan import applied, lock


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own arguments."""
    access.declare(parser, "the directories of the initramfs generator and of systemd's units")
    parser.add_argument("generator", choices=installed.names())
    parser.add_argument(
        "--package-manager", choices=[one.name for one in package_managers.MANAGERS],
        help="install the hooks of this package manager (default: that of this system)",
    )  # fmt: skip
    parser.add_argument("--remove", action="store_true", help="remove the installed files")
    parser.add_argument("--dry-run", action="store_true", help="only print what would be done")
    parser.add_argument(
        "--program",
        metavar="PATH",
        help="the program that the module and the units call (default: this program)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Install or remove the files, and print a line for each."""
    root = Path(arguments.root or "/")
    with lock.hold(root, "ephemeroot setup", dry_run=arguments.dry_run):
        return _run(arguments, root)


def _run(arguments: argparse.Namespace, root: Path) -> int:
    if arguments.remove:
        _require_disarmed(root)
    generator = installed.find(arguments.generator)
    program = _program(arguments.program, root)
    items = _items(generator, program)
    items += package_hooks.items(arguments.package_manager or _manager(root), program)
    execution = steps.one_by_one(dry_run=arguments.dry_run, quiet=arguments.json)
    if arguments.remove:
        execution.run(Removal(item, root) for item in reversed(items) if item.exists(root))
    else:
        with _labelled(root, items, dry_run=arguments.dry_run):
            execution.run(Installation(item, root) for item in items)
    if arguments.remove and not arguments.dry_run:
        for folder in generator.FOLDERS:
            _remove_empty(root / folder.lstrip("/"))
    if arguments.json:
        content = {"dry-run": arguments.dry_run, "changes": execution.lines}
        output.print_json("setup", content)
    return 0


def _labelled(root: Path, items: list[Item], *, dry_run: bool) -> New:
    """A context that labels the files of *items* and new directories, by the SELinux policy."""
    labels = Labels() if dry_run else Labels.of(str(root))
    folders = {parent.lstrip("/") for item in items for parent in clean.parents(item.name)}
    return New(labels, [(root, folders)], rewritten=[item.name for item in items])


def _require_disarmed(root: Path) -> None:
    """Raise ``Refused`` as the removal of a package does (packaging/may-be-removed)."""
    if os.path.lexists(applied.path(root)):
        raise Refused(
            "cannot remove the module: the boots of this machine wipe its root; the present images "
            "would continue to wipe, and the next kernel's image would boot without the persistent "
            "paths",
            "run 'ephemeroot leave' and reboot first",
        )
    if os.path.lexists(root / leaving.RECORD):
        raise Refused(
            "cannot remove the units: the next boot copies the changes in the stores since "
            "'ephemeroot leave'",
            "reboot first",
        )


def _items(generator: Generator, program: str) -> list[Item]:
    """All files to install for *generator*; they call *program*."""
    return [*generator.items(program), *installation.system_units(program)]


def _manager(root: Path) -> str:
    """The name of the package manager; empty if it is not known."""
    try:
        return package_managers.of(root).name
    except EphemerootError:
        return ""


def _remove_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _program(asked: str | None, root: Path) -> str:
    """An absolute path that stays valid for the next kernel update."""
    if asked is None and root != Path("/"):
        return installation.PROGRAM
    return own_path.find(asked)
