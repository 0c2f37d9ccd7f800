"""A machine as a directory: its configuration, its accounts, its fstab, its store."""

from __future__ import annotations

import json
from pathlib import Path

from ephemeroot.config import Examination, Machine, Problem, examine, read
from ephemeroot.hooks.plan import Plan
from ephemeroot.plan.compile import Compilation, compile_machine

IDENTITY = "8c9d2f64-0b1e-4b57-9c1c-0d8a5d3f7a11"
DEVICE = "UUID=3c2a1b0e-0000-4000-8000-000000000001"

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
colord:x:120:121::/var/lib/colord:/usr/sbin/nologin
talyz:x:1000:1001::/home/talyz:/bin/sh
ada:x:1002:1002::/srv/people/ada:/bin/sh
"""
GROUP = "root:x:0:\ncolord:x:121:\nusers:x:100:talyz\ntalyz:x:1001:\nada:x:1002:\n"
FSTAB = f"{DEVICE} / btrfs subvol=root 0 0\n"

ROOT = """\
[root]
wiper = "btrfs"
[root.btrfs]
base = "root-base"
"""
VOLUME = f"""\
[[volumes]]
mount-point = "/persistent"
device = "{DEVICE}"
type = "btrfs"
options = ["subvol=persistent", "noatime"]
"""
STORE = """\
[persistence."/persistent"]
directories = ["/var/log"]
files = ["/etc/machine-id"]
"""
SOUND = ROOT + VOLUME + STORE
"""A configuration without problems."""

MAIN = "etc/ephemeroot/ephemeroot.toml"


class MachineTree:
    """The tree of one machine below ``path``."""

    def __init__(self, path: Path, configuration: str | None = SOUND) -> None:
        self.path = path
        self.write("etc/passwd", PASSWD)
        self.write("etc/group", GROUP)
        self.write("etc/fstab", FSTAB)
        self.write("etc/hostname", "kiosk-7\n")
        self.write("etc/machine-id", "0123456789abcdef0123456789abcdef\n")
        self.mark("persistent")
        if configuration is not None:
            self.write(MAIN, configuration)

    def write(self, name: str, text: str) -> Path:
        """Write a file of the machine."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def mark(self, store: str) -> None:
        """Make a directory a store."""
        self.write(f"{store}/.ephemeroot-store", json.dumps({"version": 1, "id": IDENTITY}))

    @property
    def machine(self) -> Machine:
        """The facts of the machine."""
        return Machine.of(str(self.path))

    def examination(self) -> Examination:
        """The examination of the configuration, with all names looked up."""
        return examine(read(self.machine), self.machine)

    def problems(self) -> list[Problem]:
        """All problems, including warnings."""
        return list(self.examination().problems)

    def errors(self) -> list[Problem]:
        """All problems except warnings."""
        return self.examination().errors

    def complaint(self) -> str:
        """The reason and the hint of the only error; there must be exactly one."""
        errors = self.errors()
        assert len(errors) == 1, [str(error) for error in errors]
        return f"{errors[0].reason} ({errors[0].hint})"

    def compilation(self) -> Compilation:
        """The plan with its places."""
        return compile_machine(read(self.machine), self.machine)

    def plan(self) -> Plan:
        """The plan."""
        return self.compilation().plan

    def show(self, name: str = MAIN) -> str:
        """The name of a file of the machine in messages."""
        return str(self.path / name)
