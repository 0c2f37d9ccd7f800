"""``ephemeroot image``: what the initramfs generators call (plumbing)."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ephemeroot.cli import access
from ephemeroot.errors import Damaged, Misconfigured
from ephemeroot.image import applied, block_devices, contents, initramfs, nics, tree
from ephemeroot.image.contents import Contents
from ephemeroot.image.generators.mkinitcpio import hooks as mkinitcpio
from ephemeroot.linux import removal

NAME = "image"
HELP = "put together what the initramfs needs (called by dracut and mkinitcpio)"

INERT = 10


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own arguments."""
    access.declare(parser, "the output directory")
    parser.add_argument(
        "--into",
        metavar="DIR",
        help="where to put it: DIR/tree is replaced (only --explain can do without)",
    )
    parser.add_argument(
        "--init",
        choices=initramfs.KINDS,
        default=initramfs.SYSTEMD,
        help="what runs in the initramfs; none: nothing that the stages could run under",
    )
    parser.add_argument(
        "--initqueue",
        action="store_true",
        help="dracut's loop runs in the initramfs, beside systemd (without systemd it always does)",
    )
    parser.add_argument(
        "--hooks", metavar="HOOKS", help="instead of --init, mkinitcpio's hooks for this image"
    )
    parser.add_argument(
        "--configured-hooks", metavar="HOOKS", help="HOOKS as mkinitcpio.conf has them"
    )
    parser.add_argument(
        "--devices",
        action="store_true",
        help="only name the block devices of the applied plan: dracut looks what is below them",
    )
    parser.add_argument(
        "--dracut-modules",
        action="store_true",
        help="only name the modules of dracut that the plan's volumes need",
    )
    parser.add_argument(
        "--explain", action="store_true", help="list each file, its size and what it is for"
    )


def run(arguments: argparse.Namespace) -> int:
    """Put it together from the applied plan and list it, a line each with tabs between:

    ``copy SOURCE DESTINATION``, ``link TARGET NAME``, ``folder NAME``, ``module NAME`` (a
    kernel module), ``hook TYPE PRIORITY FILE`` (for
    dracut), ``runscript`` (for mkinitcpio). Exit status 0: complete, or nothing was ever
    applied, or a fallback image; 10: inert, and why.
    """
    if arguments.devices:
        return _name_devices(Path(arguments.root or "/"))
    if arguments.dracut_modules:
        return _name_dracut_modules(Path(arguments.root or "/"))
    if arguments.into is None:
        if not arguments.explain:
            raise Misconfigured("--into is missing")
        with _temporary() as folder:
            return _run(arguments, folder)
    into = Path(arguments.into).absolute()
    if not into.parent.is_dir():
        raise Misconfigured(f"{into.parent} is no directory")
    return _run(arguments, into)


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


def _run(arguments: argparse.Namespace, into: Path) -> int:
    tree.remove(into / "tree")
    hooks = None if arguments.hooks is None else arguments.hooks.split()
    if hooks is not None and mkinitcpio.is_fallback(
        hooks, (arguments.configured_hooks or "").split()
    ):
        sys.stderr.write("ephemeroot: a fallback image never wipes: nothing added\n")
        return 0
    init = arguments.init if hooks is None else mkinitcpio.init(hooks)
    raw = applied.read(Path(arguments.root or "/"))
    loop = arguments.initqueue or (hooks is None and init == initramfs.DRACUT)
    made = _put_together(into / "tree", raw, init, hooks, loop=loop)
    if arguments.explain:
        _explain(made, init)
    else:
        for line in _lines(made, init, loop=loop):
            sys.stdout.write(line + "\n")
    if hooks is not None and made.armed:
        _warn_of_network(Path(arguments.root or "/"), hooks)
    sys.stderr.write(f"ephemeroot: {_summary(made)}\n")
    return INERT if made.reason else 0


def _name_devices(root: Path) -> int:
    """Those that this machine has; a plan that cannot be read is the image's to report."""
    try:
        plan = applied.load(root)
        found = block_devices.of(plan) if plan else []
    except (Damaged, OSError):
        return 0
    for path in found:
        sys.stdout.write(path + "\n")
    return 0


def _name_dracut_modules(root: Path) -> int:
    for name in _dracut_modules(root):
        sys.stdout.write(name + "\n")
    return 0


def _dracut_modules(root: Path) -> list[str]:
    try:
        plan = applied.load(root)
    except (Damaged, OSError):
        return []  # the image says so
    return nics.dracut_modules(plan) if plan else []


def _warn_of_network(root: Path, hooks: list[str]) -> None:
    if "network" in _dracut_modules(root) and not mkinitcpio.sets_up_network(hooks):
        sys.stderr.write(
            "ephemeroot: WARNING: a volume is on the network, and none of HOOKS sets that up: "
            f"add net before {mkinitcpio.NAME}, or write [network]\n"
        )


def _put_together(
    top: Path, raw: bytes | None, init: str, hooks: list[str] | None, *, loop: bool
) -> Contents:
    when = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    if hooks is not None and raw is not None:
        try:
            mkinitcpio.require_order(hooks)
        except Misconfigured as error:
            made = contents.inert(top, f"{error.message}; {error.hint}")
            made.tree.settle(when)
            return made
    return contents.put_together(top, raw, init, loop=loop, when=when)


def _lines(made: Contents, init: str, *, loop: bool) -> list[str]:
    """What the generator adds; *loop* is whether dracut's initqueue runs."""
    lines = [_line(made, path) for path in made.tree.files()]
    lines += [f"folder\t{made.tree.name(path)}" for path in made.tree.empty_folders()]
    lines += [f"module\t{name}" for name in made.modules]
    if init == initramfs.BUSYBOX and lines:
        lines.append("runscript")
    hooks = [initramfs.WAIT] if loop and made.waits else []
    hooks += initramfs.MISSING if loop and made.armed else ()
    if init == initramfs.DRACUT:
        hooks += made.hooks
    return lines + [
        f"hook\t{kind}\t{priority}\t{initramfs.hook_file(name)}" for kind, priority, name in hooks
    ]


def _line(made: Contents, path: Path) -> str:
    if path.is_symlink():
        return f"link\t{os.readlink(path)}\t{made.tree.name(path)}"
    return f"copy\t{path}\t{made.tree.name(path)}"


def _explain(made: Contents, init: str) -> None:
    rows = sorted(
        ((path.lstat().st_size, made.tree.name(path)) for path in made.tree.files()), reverse=True
    )
    for size, name in rows:
        sys.stdout.write(f"{size:>9}  {name}  ({made.tree.why.get(name, '')})\n")
    for name in made.modules:
        sys.stdout.write(f"{'':>9}  kernel module {name}\n")
    for kind, priority, name in made.hooks if init == initramfs.DRACUT else []:
        sys.stdout.write(f"{'':>9}  hook {kind} {priority}: {name}\n")
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
        return "nothing was ever applied here: nothing added (`ephemeroot apply` arms images)"
    files = made.tree.files()
    size = sum(path.lstat().st_size for path in files)
    return f"{len(files)} files, {size / 1e6:.1f} MB before compression, verified in a chroot"
