"""Stock Debians on partitioned disks become ephemeral, through firmware and boot loader.

The commands are those that `ephemeroot init` prints, unchanged and in its order; each question is
answered with yes, and the editor changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vm import installer, layer, project
from vm.bench import Bench
from vm.cache import Cache
from vm.firmware import FirmwareBoot
from vm.installer import GRUB_EFI, GRUB_PC, Installation
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


@pytest.fixture(scope="module")
def stock(cache: Cache, package: Path) -> System:
    """The system with the project, and with files of an administrator."""
    system = project.installed(cache, installer.debian_with_boot_loaders(cache), package, {})
    mine = system.on_top(layer.make(cache, files=OWN))
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


def require_running(machine: Machine) -> None:
    said = machine.settle(timeout=300)
    assert said == "running", f"{machine.failed_units()}\n{machine.journal('-p warning')}"


def require_ephemeral(machine: Machine, kind: str) -> None:
    """Require a fresh root, no failures, the administrator's own files, and no complaint of `check`
    about the started system.
    """
    require_running(machine)
    report = json.loads(machine.read("/run/ephemeroot/boot.json"))
    assert report["wipe"]["problems"] == []
    assert report["persist"]["problems"] == []
    assert machine.run("findmnt -no FSTYPE /").out.strip() == kind
    for path, content in OWN.items():
        wanted = content.content if isinstance(content, File) else str(content).encode()
        assert machine.read(f"/{path}") == wanted, path
    assert machine.read("/home/ada/letter") == b"hello\n"
    assert machine.run("readlink /etc/localtime").out.strip() == "/usr/share/zoneinfo/Europe/Berlin"
    assert machine.run("systemctl is-active mine.service").out.strip() == "active"
    found = machine.run("ephemeroot check --json", timeout=300).out
    assert [p for p in json.loads(found)["problems"] if p["severity"] == "error"] == []
    said = machine.run("ephemeroot status", timeout=300, check=False)
    print(said.out)
    assert said.rc == 0, said.out + said.err
    assert machine.run(f"ls -d {' '.join(FORGOTTEN)}", check=False).out == ""


def forgets(machine: Machine) -> None:
    """Write a file that the next boot forgets; `unsaved` reports it at login and at shutdown."""
    machine.run("; ".join(f"echo day > {path}" for path in FORGOTTEN))
    machine.run(
        "systemctl enable --now ephemeroot-unsaved.timer ephemeroot-unsaved-shutdown.service;"
        "systemctl start ephemeroot-unsaved.service",
        timeout=300,
    )
    told = machine.read("/run/motd.d/ephemeroot").decode()
    assert "the next boot forgets" in told
    assert any(path in told for path in FORGOTTEN)


def require_told_at_shutdown(machine: Machine) -> None:
    end = machine.poweroff(240)
    assert end.complaints == ()
    assert "ephemeroot: the next boot forgets" in end.console


def test_converts_a_machine_with_bios_and_grub(
    stock: System, bench: Bench, cache: Cache, scratch: Path, name: str
) -> None:
    """Only a boot shows that GRUB, from the boot record on, starts the files that `apply` has
    written below the moved /boot, and what a shutdown prints. The commands run on this host, which
    is ten times as fast.
    """
    kind = Installation(GRUB_PC)
    disk = installer.disk(bench, kind, stock).copy(scratch / "disk.raw")
    with kind.installed(cache, disk, stock.release) as host:
        assert not follow(host.run)
        host.run("; ".join(f"echo day > {path}" for path in FORGOTTEN))
    boot = FirmwareBoot((disk,), None)
    machine = bench.up(boot, name)
    require_ephemeral(machine, "btrfs")
    assert "BOOT_IMAGE=/@boot/vmlinuz" in machine.run("cat /proc/cmdline").out
    forgets(machine)
    require_told_at_shutdown(machine)


@pytest.mark.proof
def test_converts_a_machine_with_uefi_and_grub(
    stock: System, bench: Bench, scratch: Path, name: str
) -> None:
    """Only a boot shows that firmware, shim and GRUB start the files on the ESP and in the moved
    /boot. The commands run in the machine itself, which boots twice.
    """

    def ask(command: str) -> str:
        return machine.run(command, timeout=1800).out

    disk = installer.disk(bench, Installation(GRUB_EFI), stock).copy(scratch / "disk.raw")
    boot = FirmwareBoot((disk,), scratch / "variables")
    machine = bench.up(boot, name)
    require_running(machine)
    while follow(ask):
        assert machine.leave("reboot", 300).complaints == ()
        machine = bench.up(boot, name)
    # After the base has been made.
    machine.run("; ".join(f"echo day > {path}" for path in FORGOTTEN))
    assert machine.leave("reboot", 300).complaints == ()
    machine = bench.up(boot, name)
    require_ephemeral(machine, "btrfs")
    forgets(machine)
    require_told_at_shutdown(machine)
    machine = bench.up(boot, name)
    require_ephemeral(machine, "btrfs")
