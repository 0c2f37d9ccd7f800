"""``ephemeroot setup``: give an initramfs generator our module, and the system our units."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from ephemeroot.cli import access, terminal
from ephemeroot.conversion import departure, lock
from ephemeroot.errors import Misconfigured, Refused
from ephemeroot.image import applied, data, units
from ephemeroot.linux import paths

NAME = "setup"
HELP = "install the initramfs generator's module and the units (a package does this for you)"

FORMAT = "ephemeroot-setup"
VERSION = 1

MODULE = "/usr/lib/dracut/modules.d/50ephemeroot"
DRACUT_CONF = "/usr/lib/dracut/dracut.conf.d/50-ephemeroot.conf"
INITCPIO = "/usr/lib/initcpio"
HOOKS = {
    "dracut": f"{MODULE}/module-setup.sh",
    "mkinitcpio": f"{INITCPIO}/install/ephemeroot",
}
"""The file of each generator without which images have nothing of ours."""

# Of the real system, with what wants them; the initramfs's are put into images by
# `ephemeroot image`.
_SYSTEM_UNITS = {
    "ephemeroot-lived.service": "multi-user.target",
    "ephemeroot-prune.service": "multi-user.target",
    "ephemeroot-copy.path": "sysinit.target",
    "ephemeroot-copy.service": "",
    "ephemeroot-copy-again.service": "multi-user.target",
    "ephemeroot-copy-last.service": "sysinit.target",
    "ephemeroot-leave.service": "sysinit.target",
}
_USERS_UNIT = "ephemeroot-home.service"
_PROGRAM = "/usr/bin/ephemeroot"

# A script of bash's, sourced (dracut.conf(5)). Without it a host-only image unlocks and assembles
# only what the root is on.
_DRACUT_CONF = """\
# Ephemeroot: what is below the volumes needed for boot (LUKS, LVM, MD) belongs into the image,
# as it does for the root.
add_device+=" $(/usr/bin/ephemeroot image --devices 2> /dev/null) "
"""


def hooked() -> list[str]:
    """The generators on this machine that have our module. A package brings it for both."""
    return [name for name, hook in HOOKS.items() if shutil.which(name) and Path(hook).exists()]


@dataclass(frozen=True)
class Item:
    """One file (``content`` and ``mode``) or link (``target``) called ``name``."""

    name: str
    content: bytes = b""
    mode: int = 0o644
    target: str | None = None

    def describe(self) -> str:
        """What ``install`` does."""
        return f"link {self.name} to {self.target}" if self.target else f"install {self.name}"

    def install(self, root: Path) -> None:
        """Put it below *root*, in place of what is there."""
        path = root / self.name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.target is None:
            paths.write_atomically(str(path), self.content, self.mode)
            return
        path.unlink(missing_ok=True)
        path.symlink_to(self.target)

    def remove(self, root: Path) -> bool:
        """Remove it; whether it was there."""
        path = root / self.name.lstrip("/")
        there = os.path.lexists(path)
        path.unlink(missing_ok=True)
        return there


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own arguments."""
    access.declare(parser, "the directories of the initramfs generator and of systemd's units")
    parser.add_argument("generator", choices=("dracut", "mkinitcpio"))
    parser.add_argument("--remove", action="store_true", help="take away what was installed")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument(
        "--program",
        metavar="PATH",
        help="the program that the module and the units call (default: this one)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Install or remove, say each file."""
    root = Path(arguments.root or "/")
    with lock.hold(root, "ephemeroot setup", dry_run=arguments.dry_run):
        return _run(arguments, root)


def _run(arguments: argparse.Namespace, root: Path) -> int:
    if arguments.remove:
        _require_disarmed(root)
    installed = items(arguments.generator, _program(arguments.program, root))
    lines = []
    for item in reversed(installed) if arguments.remove else installed:
        line = f"remove {item.name}" if arguments.remove else item.describe()
        if not arguments.dry_run and not arguments.remove:
            item.install(root)
        elif not arguments.dry_run and not item.remove(root):
            continue
        lines.append(line)
        if not arguments.json:
            terminal.say(f"{line}: not done: dry run" if arguments.dry_run else line)
    if arguments.remove and not arguments.dry_run:
        _remove_empty(root / MODULE.lstrip("/"))
        _remove_empty(root / INITCPIO.lstrip("/") / "ephemeroot")
    if arguments.json:
        content = {"dry-run": arguments.dry_run, "changes": lines}
        document = {"format": FORMAT, "version": VERSION, **content}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    return 0


def _require_disarmed(root: Path) -> None:
    """The same as for removing a package (packaging/may-be-removed)."""
    if os.path.lexists(applied.path(root)):
        raise Refused(
            "this machine's root is made fresh at every boot: its images would go on wiping, and "
            "the next kernel's would boot without all that persists",
            "run 'ephemeroot leave' and reboot first",
        )
    if os.path.lexists(root / departure.RECORD):
        raise Refused(
            "the next boot brings over what has changed in the stores since 'ephemeroot leave'",
            "reboot first",
        )


def items(generator: str, program: str) -> list[Item]:
    """Everything that is installed for *generator*, calling *program*."""
    installed = _dracut(program) if generator == "dracut" else _mkinitcpio(program)
    for name, target in _SYSTEM_UNITS.items():
        text = data.unit(name).replace(_PROGRAM, program)
        installed.append(Item(f"{units.FOLDER}/{name}", text.encode()))
        if target:
            link = f"{units.FOLDER}/{target}.wants/{name}"
            installed.append(Item(link, target=f"../{name}"))
    # Nothing wants it: that is for each user to say, or for the administrator.
    text = data.unit(f"user/{_USERS_UNIT}").replace(_PROGRAM, program)
    installed.append(Item(f"/usr/lib/systemd/user/{_USERS_UNIT}", text.encode()))
    return installed


def _remove_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _mkinitcpio(program: str) -> list[Item]:
    source, ours = data.folder("mkinitcpio"), f"{INITCPIO}/ephemeroot"
    inert = data.folder("systemd") / units.INERT
    return [
        Item(f"{ours}/boot", data.boot().read_bytes(), 0o755),
        Item(f"{ours}/{units.INERT}", inert.read_bytes()),
        Item(f"{ours}/ephemeroot", target=program),
        Item(f"{INITCPIO}/hooks/ephemeroot", (source / "hooks/ephemeroot").read_bytes()),
        Item(f"{INITCPIO}/install/ephemeroot", (source / "install/ephemeroot").read_bytes(), 0o755),
    ]


def _dracut(program: str) -> list[Item]:
    module = data.folder("dracut") / "50ephemeroot" / "module-setup.sh"
    inert = data.folder("systemd") / units.INERT
    hooks = [data.folder("dracut") / "50ephemeroot" / "ephemeroot-inert.sh"]
    return [
        Item(f"{MODULE}/boot", data.boot().read_bytes(), 0o755),
        Item(f"{MODULE}/{units.INERT}", inert.read_bytes()),
        Item(f"{MODULE}/ephemeroot", target=program),
        *(Item(f"{MODULE}/{hook.name}", hook.read_bytes(), 0o755) for hook in hooks),
        Item(DRACUT_CONF, _DRACUT_CONF.replace(_PROGRAM, program).encode()),
        # Last: from now on it is used.
        Item(f"{MODULE}/module-setup.sh", module.read_bytes(), 0o755),
    ]


def _program(asked: str | None, root: Path) -> str:
    """An absolute path that will still be there when a kernel update calls it."""
    if asked is not None:
        if not asked.startswith("/"):
            raise Misconfigured(f"--program {asked} is no absolute path")
        return asked
    if root != Path("/"):
        return _PROGRAM
    running = Path(sys.argv[0])
    if running.name == "ephemeroot" and os.access(running, os.X_OK):
        return str(running.absolute())
    found = shutil.which("ephemeroot")
    if found is None:
        raise Misconfigured("the program ephemeroot is not in PATH", "name it with --program")
    return found
