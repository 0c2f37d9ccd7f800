"""A store on NFS: boots that use it, and the behaviour while its server is down. Also a share by
SMB, which is not a store.

The servers are real, the network is the initramfs's own (dracut's module or mkinitcpio's hook
`net`, by DHCP) in two machines and a static `[network]` in another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from test_first_boot import LOST, report
from vm import layer, mkinitcpio, nfs, smb
from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.command import Unavailable
from vm.disk import Disk
from vm.ephemeral import CONFIGURATION, Ephemeral, make
from vm.image import FOR_MKINITCPIO, PACKAGES, debian_system
from vm.loopback import CARD, MAC, Loopback, ToolsOnLoopback
from vm.machine import Machine
from vm.qemu import Hardware
from vm.system import System

DiskFactory = Callable[..., Disk]

VOLUME = """\
[[volumes]]
mount-point = "/persistent"
device = "10.0.2.2:/store"
type = "nfs4"
options = ["noatime"]
timeout = "40s"
"""
STATIC = f"""\
[network]
interface = "{MAC}"
address = "10.0.2.15/24"
gateway = "10.0.2.2"
"""
SHARE = f"""\
[[volumes]]
mount-point = "/srv/media"
device = "//10.0.2.2/media"
type = "cifs"
options = [
  "username={smb.USER}", "password={smb.PASSWORD}",
  "uid=1000", "gid=1000", "file_mode=0640", "dir_mode=0750",
]
timeout = "40s"
"""
DRIVER = ("--add-drivers", "virtio_net")


def configuration(more: str = "") -> str:
    start, end = CONFIGURATION.index("[[volumes]]"), CONFIGURATION.index("[persistence")
    return CONFIGURATION[:start] + VOLUME + more + CONFIGURATION[end:]


@pytest.fixture(scope="module")
def networked(cache: Cache) -> System:
    """A Debian with the packages that dracut needs for a network: systemd-networkd sets it up."""
    packages = (*PACKAGES.packages, "dracut-network", "iproute2")
    system = debian_system(cache, replace(PACKAGES, packages=packages))
    # Debian enables the unit nowhere, and a host-only image would copy the harness's mask.
    return system.changed_by(cache, "rm", "/etc/systemd/system/systemd-networkd.service")


@pytest.fixture
def loopback() -> Iterator[Loopback]:
    with Loopback() as made:
        yield made


@pytest.fixture
def alone(bench: Bench, loopback: Loopback) -> Iterator[Bench]:
    """Machines that reach only the loopback."""
    made = Bench(bench.cache, ToolsOnLoopback(bench.tools, loopback), bench.logs)
    yield made
    made.close()
    # The other bench counts them.
    bench.boots += made.boots
    bench.seconds += made.seconds


def prepared(
    machine: Ephemeral, initrd: Path, disk: DiskFactory, export: Path, arguments: tuple[str, ...]
) -> Boot:
    """A boot, with the server's folder as `apply` leaves a store."""
    for name, content in machine.store.items():
        layer.write(export, name, content)
    return Boot(
        machine.system,
        initrd,
        (disk(machine.layout(store=False), machine.system),),
        arguments=arguments,
        hardware=Hardware(extra=CARD),
    )


def use(machine: Machine, number: int) -> None:
    for path in LOST:
        machine.write(path, f"day {number}\n")
    machine.run(f"echo day {number} | tee -a /var/log/diary /var/lib/colord/profile")
    machine.run(f"su talyz -c 'echo day {number} >> ~/Downloads/film'")


def check(machine: Machine, days: int) -> None:
    assert machine.settle() == "running", machine.failed_units()
    found = machine.run("findmnt -no FSTYPE,SOURCE /persistent").out.split()
    assert found == ["nfs4", "10.0.2.2:/store"]
    assert machine.run("findmnt -no FSTYPE,SOURCE /var/log").out.split() == [
        "nfs4", "10.0.2.2:/store/var/log"  # so the kernel shows it as a directory of the export
    ]  # fmt: skip
    expected = "".join(f"day {number}\n" for number in range(1, days + 1)).encode()
    if days:
        for path in ("/var/log/diary", "/var/lib/colord/profile", "/home/talyz/Downloads/film"):
            assert machine.read(path) == expected, path
    for path in LOST:
        assert machine.run(f"ls {path}", check=False).rc != 0, path
    journal = machine.journal()
    assert journal.count("wipe: wiped") == 1, journal
    assert not report(machine)["persist"]["problems"]


def owner(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid, status.st_mode & 0o7777


def check_two_boots(alone: Bench, boot: Boot, name: str, export: Path) -> None:
    for days in range(2):
        up = alone.up(boot, name)
        check(up, days)
        use(up, days + 1)
        assert up.poweroff().complaints == ()
    assert (export / "var/log/diary").read_text() == "day 1\nday 2\n"


def test_two_boots_with_the_initramfss_own_network(
    cache: Cache,
    alone: Bench,
    loopback: Loopback,
    networked: System,
    package: Path,
    disk: DiskFactory,
    scratch: Path,
    name: str,
) -> None:
    """Only a boot shows dracut's network, and NFS kept across switch_root."""
    machine = make(cache, networked, package, configuration())
    with nfs.Server(cache, loopback, scratch / "server") as server:
        initrd = machine.initrd(cache, DRIVER)
        boot = prepared(machine, initrd, disk, server.export, ("rd.neednet=1", "ip=dhcp"))
        check_two_boots(alone, boot, name, server.export)
        assert owner(server.export / "var/lib/colord")[2] == 0o750
        assert owner(server.export / "home/talyz") == (1000, 1000, 0o700)


def test_a_network_set_up_by_mkinitcpios_hook(
    cache: Cache,
    alone: Bench,
    loopback: Loopback,
    package: Path,
    disk: DiskFactory,
    scratch: Path,
    name: str,
) -> None:
    """Only a boot shows the network of mkinitcpio's hook `net`."""
    try:
        mkinitcpio.require_network()
        system = mkinitcpio.installed(cache, debian_system(cache, FOR_MKINITCPIO))
    except Unavailable as error:
        pytest.skip(str(error))
    machine = make(cache, system, package, configuration())
    initrd = mkinitcpio.make(cache, machine.system, mkinitcpio.HOOKS["net"])
    with nfs.Server(cache, loopback, scratch / "server") as server:
        boot = prepared(machine, initrd, disk, server.export, ("ip=dhcp",))
        check_two_boots(alone, boot, name, server.export)


@pytest.fixture
def static(
    cache: Cache,
    loopback: Loopback,
    networked: System,
    package: Path,
    disk: DiskFactory,
    scratch: Path,
) -> tuple[Boot, nfs.Server]:
    """A machine with a static network, files in its root, and a server that is not started."""
    text = configuration(STATIC + SHARE).replace('timeout = "40s"', 'timeout = "10s"')
    machine = make(cache, networked, package, text)
    server = nfs.Server(cache, loopback, scratch / "server")
    boot = prepared(machine, machine.initrd(cache, DRIVER), disk, server.export, ())
    with boot.disks[0].mounted() as top:
        (top / "root/etc/stray").write_text("of the root that must stay\n")
    return boot, server


def test_a_server_that_is_down(alone: Bench, static: tuple[Boot, nfs.Server], name: str) -> None:
    """Only a boot shows the emergency, and the messages about the network on the console."""
    boot, _ = static
    emergency = alone.emergency(boot, name)
    stage: Any = emergency.report["wipe"]
    assert stage["operations"][0]["result"] == "set up"
    problem = stage["problems"][0]["problem"]
    assert "cannot be reached within 10 s: tried 10.0.2.2 port 2049: connection refused" in problem
    assert "up, carrier, 10.0.2.15/24" in problem
    assert "default route by 10.0.2.2" in problem
    assert stage["policy"] == "emergency"
    console = emergency.console.read_text(errors="replace")
    assert "cannot be reached within 10 s" in console
    assert "append ephemeroot=no to the kernel command line" in console
    with boot.disks[0].mounted() as top:
        assert (top / "root/etc/stray").exists()
        assert not list((top / "old_roots").glob("*"))


@pytest.mark.proof
def test_a_static_network(
    alone: Bench,
    static: tuple[Boot, nfs.Server],
    cache: Cache,
    loopback: Loopback,
    scratch: Path,
    name: str,
) -> None:
    """Only a boot shows NFS and SMB over a network that the stage itself sets up."""
    boot, server = static
    share = smb.Server(cache, loopback, scratch / "share")
    (share.export / "film").write_text("of the server\n")
    with server, share:
        up = alone.up(boot, name)
        check(up, 0)
        assert up.run("ls /etc/stray", check=False).rc != 0
        use(up, 1)
        use_share(up)
        assert up.poweroff().complaints == ()
    assert (server.export / "var/log/diary").read_text() == "day 1\n"
    assert (share.export / "film").read_text() == "of the server\nday 1\n"


def use_share(machine: Machine) -> None:
    """All files belong to the owner in the options, whatever owner is requested: so the share
    cannot be a store.
    """
    found = machine.run("findmnt -no FSTYPE,SOURCE /srv/media").out.split()
    assert found == ["cifs", "//10.0.2.2/media"]
    machine.run("chown root /srv/media/film; chmod 4755 /srv/media/film")
    shown = machine.run("cd /srv/media; stat -c '%u:%g %a' . film").out
    assert shown.splitlines() == ["1000:1000 750", "1000:1000 640"]
    machine.run("su talyz -c 'echo day 1 >> /srv/media/film'")
    said = machine.journal() + machine.read("/run/ephemeroot/boot.json").decode()
    assert f"username={smb.USER},password=***," in said
    assert smb.PASSWORD not in said
