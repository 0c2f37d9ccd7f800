"""``ephemeroot image``: what the initramfs generators call (plumbing)."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from pathlib import Path

from ephemeroot.errors import Misconfigured
from ephemeroot.image import applied, contents
from ephemeroot.image.contents import Contents

NAME = "image"
HELP = "put together what the initramfs needs (called by dracut and mkinitcpio)"

INERT = 10


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own arguments."""
    parser.add_argument(
        "--into",
        metavar="DIR",
        required=True,
        help="where to put it: DIR/tree is the initramfs's, DIR/hooks the generator's; both "
        "are replaced",
    )
    parser.add_argument(
        "--init",
        choices=(contents.SYSTEMD, "none"),
        default=contents.SYSTEMD,
        help="what runs in the initramfs; none: nothing that the stages could run under",
    )
    parser.add_argument(
        "--explain", action="store_true", help="list each file, its size and what it is for"
    )


def run(arguments: argparse.Namespace) -> int:
    """Put it together from the applied plan and list it, a line each with tabs between:

    ``copy SOURCE DESTINATION``, ``module NAME`` (a kernel module), ``hook TYPE FILE`` (for
    dracut). Exit status 0: complete, or nothing was ever applied; 10: inert, and why.
    """
    into = Path(arguments.into).absolute()
    if not into.parent.is_dir():
        raise Misconfigured(f"{into.parent} is no directory")
    for name in ("tree", "hooks"):
        shutil.rmtree(into / name, ignore_errors=True)
    raw = applied.read(Path(arguments.root or "/"))
    when = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    made = contents.put_together(into / "tree", raw, arguments.init, when=when)
    if arguments.explain:
        _explain(made)
    else:
        for line in _lines(made, into / "hooks"):
            sys.stdout.write(line + "\n")
    sys.stderr.write(f"ephemeroot: {_summary(made)}\n")
    return INERT if made.reason else 0


def _lines(made: Contents, hooks: Path) -> list[str]:
    lines = [f"copy\t{path}\t{made.tree.name(path)}" for path in made.tree.files()]
    lines += [f"module\t{name}" for name in made.modules]
    for number, (device, timeout) in enumerate(sorted(made.waits.items())):
        hooks.mkdir(exist_ok=True)
        hook = hooks / f"ephemeroot-{number}.sh"
        hook.write_text(_wait(device, timeout))
        lines.append(f"hook\tinitqueue/finished\t{hook}")
    return lines


def _wait(device: str, timeout: int) -> str:
    """A hook that keeps dracut's loop going until the device is there, for the loop may be
    what makes it (LVM, MD). It goes round at most twice a second, and does not wait longer
    than systemd does.
    """
    return f'[ -e {shlex.quote(device)} ] || [ "${{main_loop:-0}}" -ge {2 * timeout} ]\n'


def _explain(made: Contents) -> None:
    rows = sorted(
        ((path.lstat().st_size, made.tree.name(path)) for path in made.tree.files()), reverse=True
    )
    for size, name in rows:
        sys.stdout.write(f"{size:>9}  {name}  ({made.tree.why.get(name, '')})\n")
    for name in made.modules:
        sys.stdout.write(f"{'':>9}  kernel module {name}\n")


def _summary(made: Contents) -> str:
    if made.reason:
        return f"INERT, neither wipes nor persists: {made.reason}"
    if not made.armed:
        return "nothing was ever applied here: nothing added (`ephemeroot apply` arms images)"
    files = made.tree.files()
    size = sum(path.lstat().st_size for path in files)
    return f"{len(files)} files, {size / 1e6:.1f} MB before compression, verified in a chroot"
