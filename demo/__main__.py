"""Three boots of a throw-away machine, shown step by step: `make demo`.

Needs root, for loop devices and mounts. It does not change this machine: the disk is a
file in a temporary folder, all mounts are in a mount namespace that ends with the demo.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import DemoFailed, Machine, Report
from page import GREEN, YELLOW, Page
from story import (
    EPHEMERAL,
    PERSISTENT,
    WATCHED,
    Unexpected,
    brief,
    install_by_hand,
    live,
    look,
    verdict,
)

NEEDED = ("btrfs", "losetup", "mkfs.btrfs", "mount", "umount", "unshare")
BOOTS = 3


def main() -> int:
    """Set the stage, play in a mount namespace of its own, and leave nothing behind."""
    if sys.argv[1:2] == ["--inside"]:
        return play(Machine(Path(sys.argv[2])))
    if os.geteuid() != 0:
        print("demo: needs root for loop devices and mounts: sudo make demo", file=sys.stderr)
        return 1
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        print(f"demo: missing programs: {', '.join(missing)}; install them", file=sys.stderr)
        return 1
    # An end by a signal must run the clean-up, too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="ephemeroot-demo-") as folder:
        inside = [sys.executable, "-P", str(Path(__file__).parent), "--inside", folder]
        child = subprocess.Popen(["unshare", "--mount", "--propagation", "private", *inside])
        try:
            return child.wait()
        except KeyboardInterrupt:
            return 130
        finally:
            child.terminate()
            child.wait()


def play(machine: Machine) -> int:
    """The whole demo, in its own mount namespace."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    page = Page()
    begun = time.monotonic()
    try:
        tell(machine, page)
        machine.close()
    except KeyboardInterrupt:
        return 130
    except (DemoFailed, Unexpected) as error:
        print(f"demo: failed: {error}", file=sys.stderr)
        return 1
    finally:
        machine.close()
    page.heading(f"{BOOTS} boots in {time.monotonic() - begun:.1f} s, all files removed")
    return 0


def tell(machine: Machine, page: Page) -> None:
    """Run the boots and print each step."""
    page.heading("A throw-away machine")
    machine.install()
    page.say(f"{machine.image}: a btrfs with the subvolumes root-base, root and persistent")
    page.heading("The configuration, /etc/ephemeroot/ephemeroot.toml")
    with machine.running() as root:
        install_by_hand(root)
        live(root, day=0)
        before = look(root)
    page.quote(machine.configure())
    retired: list[str] = []
    for day in range(1, BOOTS + 1):
        report = machine.boot()
        page.heading(f"Boot {day}")
        show_log(page, report, whole=day == 1)
        retired.append(newest_old_root(machine, retired, report))
        show_files(machine, page, before, retired[-1])
        live(machine.sysroot, day)
        before = look(machine.sysroot)
        machine.power_off()
    show_old_roots(machine, page, retired)


def show_log(page: Page, report: Report, *, whole: bool) -> None:
    """The boot code's own lines, with their times; all of them or the wipe's alone."""
    for stage, operations in report.items():
        for operation in operations:
            if whole or operation["operation"] == "wipe":
                label = f"{stage:7} {operation['seconds'] * 1000:6.1f} ms"
                page.item(label, f"{operation['line']}: {operation['result']}")


def newest_old_root(machine: Machine, known: list[str], report: Report) -> str:
    """The name of the root that this boot retired. Raises ``Unexpected`` unless it is just one."""
    names = [path.name for path in machine.old_roots() if path.name not in known]
    if len(names) != 1:
        raise Unexpected(f"one root should have been retired, not {names}")
    return names[0]


def show_files(machine: Machine, page: Page, before: dict[str, str], retired: str) -> None:
    """Each file before the power-off and after the boot."""
    now = look(machine.sysroot)
    rows = [("", "at power-off", "after the boot", "")]
    colours = [""]
    for name in WATCHED:
        became = verdict(machine, name, before[name], now.get(name), retired)
        rows.append((name, brief(before[name]), brief(now.get(name)), became))
        colours.append(GREEN if name in PERSISTENT else YELLOW)
    page.blank()
    page.table(rows, colours)


def show_old_roots(machine: Machine, page: Page, retired: list[str]) -> None:
    """The old roots with the wiped files, and the store."""
    page.heading("Old roots")
    rows = []
    for name in retired:
        root = machine.top / "old_roots" / name
        held = [Path(path).name for path in EPHEMERAL if (root / path.lstrip("/")).is_file()]
        note = (
            "the first one, never pruned"
            if name.endswith(".keep")
            else "kept for 30 days or longer"
        )
        rows.append((f"old_roots/{name}", " ".join(held), note))
    page.table(rows)
    page.blank()
    lost = f"{retired[0]}{EPHEMERAL[1]}"
    page.say(f"A wiped file is still in its old root, old_roots/{lost}:")
    page.quote((machine.top / "old_roots" / lost).read_text())
    page.heading("The store, in the subvolume persistent")
    page.say("var/log/messages, written by four roots:")
    page.quote((machine.top / "persistent/var/log/messages").read_text())


if __name__ == "__main__":
    sys.exit(main())
