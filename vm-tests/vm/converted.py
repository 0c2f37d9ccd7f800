"""An administrator's machines, which become ephemeral by the commands of `ephemeroot init`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path

from vm import installer, layer, project
from vm.bench import Bench
from vm.cache import Cache, build_of, digest
from vm.firmware import FirmwareBoot
from vm.installer import Installation
from vm.layer import Content, File
from vm.machine import Machine
from vm.system import System

# The proposal of `init` beyond that of every system, and a path of it that must exist.
OWN: dict[str, Content] = {
    "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 box\n",
    "etc/hostname": "box\n",
    "etc/timezone": "Europe/Berlin\n",
    "etc/locale.conf": "LANG=C.UTF-8\n",  # /etc/default/locale is a link to it
    "etc/default/keyboard": 'XKBLAYOUT="de"\n',
    "etc/NetworkManager/system-connections/home.nmconnection": File(b"[connection]\n", 0o600),
    "etc/ssh/ssh_host_ed25519_key": File(b"key\n", 0o600),
    "etc/ssh/ssh_host_ed25519_key.pub": "key\n",
    "opt/mine/program": File(b"#!/bin/sh\n", 0o755),
    "srv/photos/one": "mine\n",
    "var/spool/cron/crontabs/ada": File(b"@daily true\n", 0o600, 1000, 1000),
    "var/lib/bluetooth/adapter/info": "[General]\n",
    "etc/systemd/system/mine.service": "[Service]\nType=oneshot\nExecStart=/bin/true\n"
    "RemainAfterExit=yes\n[Install]\nWantedBy=multi-user.target\n",
}
FORGOTTEN = ("/etc/forgotten", "/var/lib/forgotten", "/usr/forgotten")
FORGET = "; ".join(f"echo day > {path}" for path in FORGOTTEN)
"""The command that writes what the next boot forgets."""


def stock(cache: Cache, package: Path) -> System:
    """The system with the project, and with files of an administrator."""
    plain = installer.debian_with_boot_loaders(cache)
    mine = project.installed(cache, plain, package, {}).on_top(layer.make(cache, files=OWN))
    script = (
        "useradd --create-home --uid 1000 ada; ln -sf /usr/share/zoneinfo/Europe/Berlin"
        " /etc/localtime; systemctl enable mine.service; echo hello > /home/ada/letter"
    )
    return mine.changed_by(cache, "sh", "-ec", script)


def commands(text: str) -> list[str]:
    """The commands that `init --json` prints, with options that suppress questions."""
    found = [one for step in json.loads(text)["steps"] for one in step["commands"]]
    assert not [one for one in found if one.startswith("#")], "left to the reader"
    return [f"{one} --yes" if one == "ephemeroot apply" else one for one in found]


def follow(ask: Callable[[str], str]) -> bool:
    """Execute the commands of `init` up to a reboot; return whether more follow after it."""
    typed = commands(ask("ephemeroot init --json"))
    for one in typed:
        if one != "reboot":
            print(f"$ {one}\n{ask(f'export EDITOR=true; {one}')}")
    return "ephemeroot apply --yes" not in typed


def in_the_machine(bench: Bench, kind: Installation, system: System) -> Path:
    """A folder of the cache with the disk of a machine in which the commands of `init` were run,
    `disk.raw`, and the `variables` of its firmware. Do not use them directly: copy them. The root
    has FORGOTTEN, the base does not.
    """
    plain = installer.disk(bench, kind, system)

    def build(folder: Path) -> None:
        boot = FirmwareBoot((plain.copy(folder / "disk.raw"),), folder / "variables", timeout=1800)

        def typed(command: str) -> str:
            return machine.run(command, timeout=3600).out

        machine = bench.up(boot, "conversion")
        require_running(machine)
        while follow(typed):
            assert machine.poweroff(900).complaints == ()
            machine = bench.up(boot, "conversion")
            require_running(machine)
        machine.run(FORGET)
        assert machine.poweroff(900).complaints == ()

    key = digest(inspect.getsource(follow), repr(kind), build_of(plain.image.parent), system.key)
    return bench.cache.entry("converted", key, build, keep=4)


def require_running(machine: Machine) -> None:
    """Require that the boot is complete and no unit has failed."""
    said = machine.settle(timeout=900)
    assert said == "running", f"{machine.failed_units()}\n{machine.journal('-p warning')}"


def require_own(machine: Machine) -> None:
    """Require that the administrator's own files exist and are in effect."""
    for path, content in OWN.items():
        wanted = content.content if isinstance(content, File) else str(content).encode()
        assert machine.read(f"/{path}") == wanted, path
    assert machine.read("/home/ada/letter") == b"hello\n"
    assert machine.run("readlink /etc/localtime").out.strip() == "/usr/share/zoneinfo/Europe/Berlin"
    assert machine.run("systemctl is-active mine.service").out.strip() == "active"


def require_no_problems(machine: Machine) -> None:
    """Require that both stages report no problem."""
    report = json.loads(machine.read("/run/ephemeroot/boot.json"))
    assert [report[stage]["problems"] for stage in ("wipe", "persist")] == [[], []]


def require_ephemeral(machine: Machine, kind: str) -> None:
    """Require a fresh root, no failures, the administrator's own files, and no complaint of `check`
    about the started system.
    """
    require_running(machine)
    require_no_problems(machine)
    assert machine.run("findmnt -no FSTYPE /").out.strip() == kind
    require_own(machine)
    found = machine.run("ephemeroot check --json", timeout=900).out
    assert [p for p in json.loads(found)["problems"] if p["severity"] == "error"] == []
    said = machine.run("ephemeroot status", timeout=900, check=False)
    print(said.out)
    assert said.rc == 0, said.out + said.err
    assert machine.run(f"ls -d {' '.join(FORGOTTEN)}", check=False).out == ""
