"""A store on NFS whose server is away: the documented failure in time, and nothing wiped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vm import layer, nfs
from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.disk import Disk
from vm.ephemeral import CONFIGURATION, Ephemeral, make
from vm.image import PACKAGES, debian_system
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
interface = "{nfs.MAC}"
address = "10.0.2.15/24"
gateway = "10.0.2.2"
"""
DRIVER = ("--add-drivers", "virtio_net")


def configuration(more: str = "") -> str:
    start, end = CONFIGURATION.index("[[volumes]]"), CONFIGURATION.index("[persistence")
    return CONFIGURATION[:start] + VOLUME + more + CONFIGURATION[end:]


@pytest.fixture(scope="module")
def networked(cache: Cache) -> System:
    """The Debian with what dracut needs to set up a network."""
    return debian_system(cache, replace(PACKAGES, packages=(*PACKAGES.packages, "dracut-network")))


@pytest.fixture
def loopback() -> Iterator[nfs.Loopback]:
    with nfs.Loopback() as made:
        yield made


@pytest.fixture
def alone(bench: Bench, loopback: nfs.Loopback) -> Iterator[Bench]:
    """Machines that reach nothing but the loopback."""
    made = Bench(bench.cache, nfs.ToolsOnLoopback(bench.tools, loopback), bench.logs)
    yield made
    made.close()
    bench.lost.extend(made.lost)


def prepared(
    machine: Ephemeral, cache: Cache, disk: DiskFactory, export: Path, arguments: tuple[str, ...]
) -> Boot:
    """A boot, with the server's folder as `apply` would have left the store."""
    for name, content in machine.store.items():
        layer.write(export, name, content)
    return Boot(
        machine.system,
        machine.initrd(cache, DRIVER),
        (disk(machine.layout(store=False), machine.system),),
        arguments=arguments,
        hardware=Hardware(extra=nfs.CARD),
    )


@pytest.fixture
def static(
    cache: Cache,
    loopback: nfs.Loopback,
    networked: System,
    package: Path,
    disk: DiskFactory,
    scratch: Path,
) -> tuple[Boot, nfs.Server]:
    """A machine with a static network, its root with something in it, and a server not started."""
    text = configuration(STATIC).replace('timeout = "40s"', 'timeout = "10s"')
    machine = make(cache, networked, package, text)
    server = nfs.Server(cache, loopback, scratch / "server")
    boot = prepared(machine, cache, disk, server.export, ())
    with boot.disks[0].mounted() as top:
        (top / "root/etc/stray").write_text("of the root that must stay\n")
    return boot, server


def test_a_server_that_is_away(alone: Bench, static: tuple[Boot, nfs.Server], name: str) -> None:
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
