"""``ephemeroot image``: collect the files of an image (called by initramfs generators)."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ephemeroot import amounts
from ephemeroot.cli import access, output
from ephemeroot.errors import Damaged, Misconfigured
from ephemeroot.hooks.plan import Plan
from ephemeroot.image import assembly, tree
from ephemeroot.image.contents import Contents
from ephemeroot.image.generators import installed
from ephemeroot.image.generators.contract import Generator, Target
from ephemeroot.linux import removal
from ephemeroot.plan import applied

INERT = output.PARTLY


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own arguments."""
    access.declare(parser, "the output directory")
    parser.add_argument(
        "--into",
        metavar="DIR",
        help="replace DIR/tree with the files (optional with --explain)",
    )
    parser.add_argument(
        "--generator",
        choices=installed.names(),
        help="the calling initramfs generator (default: derived from the options)",
    )
    for generator in installed.every():
        generator.declare(parser)
    parser.add_argument(
        "--explain", action="store_true", help="list each file with its size and purpose"
    )


def run(arguments: argparse.Namespace) -> int:
    """Collect the files for the applied plan, and print a line for each item that the generator's
    module adds. Exit status 0: complete, no plan is applied, or a fallback image; 10: inert, with
    the reason.
    """
    generator = _generator(arguments)
    root = Path(arguments.root or "/")
    answer = _answer(generator, arguments, root)
    if answer is not None:
        sys.stdout.write("".join(f"{line}\n" for line in answer))
        return 0
    target = generator.target(arguments)
    if arguments.into is None:
        if not arguments.explain:
            raise Misconfigured("--into is missing", "add --into DIR or --explain")
        with _temporary() as folder:
            return _run(arguments, target, folder)
    into = Path(arguments.into).absolute()
    if not into.parent.is_dir():
        raise Misconfigured(
            f"cannot write to {into}: {into.parent} is not a directory", "name another with --into"
        )
    return _run(arguments, target, into)


@contextmanager
def _temporary() -> Iterator[Path]:
    """A private directory, removed at the end. It contains no mounts: the check of the packed tree
    has a separate mount namespace.
    """
    place, name = "/var/tmp", f"ephemeroot-{os.urandom(8).hex()}"
    parent = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
        try:
            yield Path(place, name)
        finally:
            removal.remove(parent, name)
    finally:
        os.close(parent)


def _generator(arguments: argparse.Namespace) -> Generator:
    if arguments.generator is not None:
        return installed.find(arguments.generator)
    callers = (one for one in installed.every() if one.is_caller(arguments))
    return next(callers, installed.recommended())


def _answer(generator: Generator, arguments: argparse.Namespace, root: Path) -> list[str] | None:
    """The generator's answer. The image reports a plan that cannot be read."""
    try:
        return generator.answer(arguments, applied.load(root))
    except (Damaged, OSError):
        return generator.answer(arguments, None)


def _run(arguments: argparse.Namespace, target: Target, into: Path) -> int:
    tree.remove(into / "tree")
    exemption = target.exemption()
    if exemption:
        sys.stderr.write(f"ephemeroot: {exemption}: nothing added\n")
        return 0
    root = Path(arguments.root or "/")
    when = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    made = assembly.put_together(into / "tree", applied.read(root), target, when=when)
    if arguments.explain:
        _explain(made)
    else:
        sys.stdout.write("".join(f"{line}\n" for line in target.lines(made)))
    plan: Plan | None = applied.load(root) if made.armed else None
    for warning in target.warnings(plan) if plan is not None else []:
        sys.stderr.write(f"ephemeroot: WARNING: {warning}\n")
    sys.stderr.write(f"ephemeroot: {_summary(made)}\n")
    return INERT if made.reason else 0


def _explain(made: Contents) -> None:
    rows = sorted(
        ((path.lstat().st_size, made.tree.name(path)) for path in made.tree.files()), reverse=True
    )
    for size, name in rows:
        sys.stdout.write(f"{size:>9}  {name}  ({made.tree.why.get(name, '')})\n")
    for name in made.modules:
        sys.stdout.write(f"{'':>9}  kernel module {name}\n")
    for script in made.scripts:
        sys.stdout.write(f"{'':>9}  {script.title}\n")
    for why, size in _totals(made):
        sys.stdout.write(f"{size:>9}  total: {why}\n")


def _totals(made: Contents) -> list[tuple[str, int]]:
    """The total size in bytes for each kind of purpose, the largest first."""
    sums: dict[str, int] = {}
    for path in made.tree.files():
        why = made.tree.why.get(made.tree.name(path), "").partition(",")[0]
        sums[why] = sums.get(why, 0) + path.lstat().st_size
    return sorted(sums.items(), key=lambda item: (-item[1], item[0]))


def _summary(made: Contents) -> str:
    if made.reason:
        return f"INERT, neither wipes nor persists: {made.reason}"
    if not made.armed:
        return "no plan is applied: nothing added (run 'ephemeroot apply')"
    files = made.tree.files()
    size = sum(path.lstat().st_size for path in files)
    return f"{len(files)} files, {amounts.size(size)} before compression, verified in a chroot"
