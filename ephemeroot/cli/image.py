"""``ephemeroot image``: what the initramfs generators call (plumbing)."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
        help="where to put it: DIR/tree is replaced (only --explain can do without)",
    )
    parser.add_argument(
        "--generator",
        choices=installed.names(),
        help="the initramfs generator that is calling (default: by its options)",
    )
    for generator in installed.every():
        generator.declare(parser)
    parser.add_argument(
        "--explain", action="store_true", help="list each file with its size and purpose"
    )


def run(arguments: argparse.Namespace) -> int:
    """Put it together from the applied plan and list it, a line for each thing that the
    generator's module is to add. Exit status 0: complete, or nothing was ever applied, or a
    fallback image; 10: inert, and why.
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
            raise Misconfigured("--into is missing")
        with _temporary() as folder:
            return _run(arguments, target, folder)
    into = Path(arguments.into).absolute()
    if not into.parent.is_dir():
        raise Misconfigured(f"{into.parent} is not a directory")
    return _run(arguments, target, into)


@contextmanager
def _temporary() -> Iterator[Path]:
    """A directory of this process's own, removed at the end. Nothing is mounted in it: the check of
    the packed tree has a mount namespace of its own.
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
    """A plan that cannot be read is the image's to report."""
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
        sys.stdout.write(f"{size:>9}  in all: {why}\n")


def _totals(made: Contents) -> list[tuple[str, int]]:
    """The size of everything with the same kind of reason, the largest first."""
    sums: dict[str, int] = {}
    for path in made.tree.files():
        why = made.tree.why.get(made.tree.name(path), "").partition(",")[0]
        sums[why] = sums.get(why, 0) + path.lstat().st_size
    return sorted(sums.items(), key=lambda item: (-item[1], item[0]))


def _summary(made: Contents) -> str:
    if made.reason:
        return f"INERT, neither wipes nor persists: {made.reason}"
    if not made.armed:
        return "no plan was applied: nothing added (run 'ephemeroot apply')"
    files = made.tree.files()
    size = sum(path.lstat().st_size for path in files)
    return f"{len(files)} files, {size / 1e6:.1f} MB before compression, verified in a chroot"
