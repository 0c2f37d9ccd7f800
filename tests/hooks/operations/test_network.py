"""Waiting for the network, in network namespaces with real links that come up late."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ephemeroot.errors import Damaged, StoreMissing
from ephemeroot.hooks import plan as plans
from ephemeroot.hooks.operations import network as volumes
from ephemeroot.hooks.operations.network import Network
from ephemeroot.linux import network
from network_cable import Cable, cable, ip

__all__ = ["cable"]

pytestmark = [pytest.mark.requires_root, pytest.mark.requires_program("ip")]


@pytest.fixture
def later() -> Iterator[Callable[[float, Callable[[], None]], None]]:
    """`later(seconds, do)`: in a thread, in the same namespace."""
    timers: list[threading.Timer] = []

    def start(seconds: float, do: Callable[[], None]) -> None:
        timers.append(threading.Timer(seconds, do))
        timers[-1].start()

    yield start
    for timer in timers:
        timer.join()


def wait(address: str, seconds: float) -> None:
    with network.Network() as net:
        net.wait(lambda: net.missing_route(address), time.monotonic() + seconds)


def have_carrier(cable: Cable) -> None:
    ip("link", "set", "eth0", "up")
    cable.plug_in()


def have_address(cable: Cable) -> None:
    have_carrier(cable)
    ip("address", "add", "10.9.0.2/24", "dev", "eth0")


def test_does_not_wait_for_a_network_that_is_up(cable: Cable) -> None:
    have_address(cable)
    wait("10.9.0.1", 0)


def test_waits_for_the_carrier(
    cable: Cable, later: Callable[[float, Callable[[], None]], None]
) -> None:
    ip("link", "set", "eth0", "up")
    ip("address", "add", "10.9.0.2/24", "dev", "eth0")
    with pytest.raises(TimeoutError, match=r"10\.9\.0\.1.*eth0 up, no carrier, 10\.9\.0\.2/24"):
        wait("10.9.0.1", 0.2)
    later(0.5, cable.plug_in)
    wait("10.9.0.1", 20)


def test_waits_for_the_address(
    cable: Cable, later: Callable[[float, Callable[[], None]], None]
) -> None:
    have_carrier(cable)
    with pytest.raises(TimeoutError, match=r"no route to 10\.9\.0\.1 .*eth0 up, carrier"):
        wait("10.9.0.1", 0.2)
    later(0.5, lambda: ip("address", "add", "10.9.0.2/24", "dev", "eth0"))
    wait("10.9.0.1", 20)


def test_waits_for_the_route(
    cable: Cable, later: Callable[[float, Callable[[], None]], None]
) -> None:
    have_address(cable)
    with pytest.raises(TimeoutError, match=r"no route to 192\.0\.2\.7 .*no default route"):
        wait("192.0.2.7", 0.2)
    later(0.5, lambda: ip("route", "add", "default", "via", "10.9.0.1"))
    wait("192.0.2.7", 20)


def test_waits_for_duplicate_address_detection(cable: Cable) -> None:
    """It takes a second or two (RFC 4862)."""
    have_carrier(cable)
    ip("address", "add", "fd00::2/64", "dev", "eth0")
    with pytest.raises(TimeoutError, match=r"has no usable address .*fd00::2/64 \(not confirmed"):
        wait("fd00::1", 0.1)
    wait("fd00::1", 20)


def test_reports_a_missing_interface(cable: Cable) -> None:
    ip("link", "delete", "eth0")
    with pytest.raises(TimeoutError, match="no network interface; no default route"):
        wait("10.9.0.1", 0)


def test_waiting_does_not_poll(cable: Cable) -> None:
    """A second of waiting is one sleep in the kernel."""
    have_carrier(cable)
    with network.Network() as net:
        net.wait(lambda: "" if "eth0 up, carrier" in net.describe() else "no carrier yet",
                 time.monotonic() + 120)  # fmt: skip
    looked = []

    def missing() -> str:
        looked.append(time.monotonic())
        return "something"

    with network.Network() as net, pytest.raises(TimeoutError):
        net.wait(missing, time.monotonic() + 1)
    # The link may report its own events until it settles; a polling loop would look hundreds of
    # times.
    assert len(looked) < 10


def test_sets_up_a_static_network(cable: Cable) -> None:
    cable.plug_in()
    with network.Network() as net:
        assert net.set_up("eth0", ["10.9.0.2/24", "fd00::2/64"], ["10.9.0.1", "fd00::1"])
        assert not net.set_up("eth0", ["10.9.0.2/24", "fd00::2/64"], ["10.9.0.1", "fd00::1"])
        text = net.describe()
    assert "10.9.0.2/24" in text
    assert "default route by 10.9.0.1" in text
    routes = json.loads(subprocess.check_output(["ip", "-j", "-6", "route"]))
    assert {"default": "fd00::1"}.items() <= {r["dst"]: r.get("gateway") for r in routes}.items()


@pytest.mark.parametrize("by", ["address", "other name"])
def test_finds_an_interface_by_its_alternative_names(cable: Cable, by: str) -> None:
    link = json.loads(subprocess.check_output(["ip", "-j", "link", "show", "eth0"]))[0]
    ip("link", "property", "add", "dev", "eth0", "altname", "enp7s0f1np1withalongname")
    name = link["address"].upper() if by == "address" else "enp7s0f1np1withalongname"
    with network.Network() as net:
        assert net.set_up(name, ["10.9.0.2/24"], [])
        assert "eth0 up" in net.describe()


def operation(**values: Any) -> Network:
    return Network(**{"interface": "eth0", "addresses": ["10.9.0.2/24"], **values})


def test_the_operation_sets_up_the_network(cable: Cable) -> None:
    made = operation(gateways=["10.9.0.1"])
    assert made.describe() == "set up eth0 with 10.9.0.2/24, gateway 10.9.0.1"
    assert made.execute(None) == "set up"  # type: ignore[arg-type]  # it needs no stage
    assert made.execute(None) == "already set up"  # type: ignore[arg-type]


def test_waits_for_the_interface(
    cable: Cable, later: Callable[[float, Callable[[], None]], None]
) -> None:
    later(0.5, lambda: ip("link", "add", "late0", "type", "veth"))
    made = operation(interface="late0")
    assert made.execute(None) == "set up"  # type: ignore[arg-type]


def test_reports_an_interface_that_never_appears(cable: Cable) -> None:
    with pytest.raises(StoreMissing, match=r"there is no interface gone0 .*eth0 down") as caught:
        operation(interface="gone0", timeout=1).execute(None)  # type: ignore[arg-type]
    assert "[network]" in caught.value.hint


def test_reports_a_gateway_that_cannot_be_reached(cable: Cable) -> None:
    with pytest.raises(StoreMissing, match=r"192\.0\.2\.1"):
        operation(gateways=["192.0.2.1"]).execute(None)  # type: ignore[arg-type]


def test_the_operation_can_be_stored_in_a_plan(tmp_path: Path) -> None:
    plan = plans.Plan(wipe=[operation()], persist=[])
    (tmp_path / "plan.json").write_bytes(plan.dump())
    again = plans.load(str(tmp_path / "plan.json")).wipe[0]
    assert again.to_json() == operation().to_json()
    with pytest.raises(Damaged):
        Network(interface="eth0")  # type: ignore[call-arg]  # type checkers know it, too


# The server

OPTIONS = ["vers=4.2", "addr=10.9.0.1"]


def mount(tmp_path: Path, options: list[str] = OPTIONS, timeout: int = 2) -> None:
    volumes.mount("nfs4", "10.9.0.1:/srv", options, str(tmp_path), timeout)


def test_reaches_a_link_local_server_through_its_interface(
    cable: Cable, tmp_path: Path, later: Callable[[float, Callable[[], None]], None]
) -> None:
    cable.there("address", "add", "fe80::1/64", "dev", "eth1", "nodad")
    cable.plug_in()
    ip("address", "add", "fe80::5/64", "dev", "eth0", "nodad")
    ip("link", "set", "eth0", "up")
    cable.serve("::", 2049)
    with network.Network() as net:
        net.wait(lambda: net.missing_route("fe80::1%eth0"), time.monotonic() + 60)
        assert "no interface eth9" in net.missing_route("fe80::1%eth9")
    network.connect("fe80::1%eth0", 2049, time.monotonic() + 60)


def test_a_timeout_of_zero_waits_until_the_network_is_up(
    cable: Cable, tmp_path: Path, later: Callable[[float, Callable[[], None]], None]
) -> None:
    later(0.5, lambda: ip("link", "add", "late0", "type", "veth"))
    made = operation(interface="late0", timeout=0)
    assert made.execute(None) == "set up"  # type: ignore[arg-type]


def test_without_a_network_the_store_is_missing_after_the_timeout(
    cable: Cable, tmp_path: Path
) -> None:
    started = time.monotonic()
    with pytest.raises(StoreMissing) as caught:
        mount(tmp_path, timeout=1)
    assert time.monotonic() - started < 60
    assert caught.value.message == (
        "10.9.0.1:/srv (nfs4) cannot be reached within 1 s: there is no route to 10.9.0.1 "
        "(eth0 down, no carrier, no address; no default route)"
    )


def test_retries_a_server_that_refuses_until_the_timeout(cable: Cable, tmp_path: Path) -> None:
    have_address(cable)
    cable.there("address", "add", "10.9.0.1/24", "dev", "eth1")
    with pytest.raises(StoreMissing) as caught:
        mount(tmp_path)
    assert "tried 10.9.0.1 port 2049: connection refused (eth0 up, carrier" in caught.value.message


def test_gives_up_on_a_silent_server_after_the_timeout(cable: Cable, tmp_path: Path) -> None:
    have_address(cable)
    # No machine has the address, so it never answers.
    with pytest.raises(
        StoreMissing, match=r"tried 10\.9\.0\.1 port 2049: (the server did not answer|no route)"
    ):
        mount(tmp_path)


def test_waits_for_a_server_that_starts_late(
    cable: Cable, later: Callable[[float, Callable[[], None]], None]
) -> None:
    have_address(cable)
    cable.there("address", "add", "10.9.0.1/24", "dev", "eth1")
    later(0.5, lambda: cable.serve("10.9.0.1", 2049))
    network.connect("10.9.0.1", 2049, time.monotonic() + 120)


def test_reports_an_image_without_support_for_the_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An older image that has to follow a newer plan."""
    monkeypatch.delattr("ephemeroot.linux.network")
    monkeypatch.setitem(sys.modules, "ephemeroot.linux.network", None)
    for tried in (lambda: mount(tmp_path), lambda: operation().execute(None)):  # type: ignore[arg-type]
        with pytest.raises(StoreMissing, match="lacks the parts"):
            tried()


def test_reports_a_kernel_without_the_filesystem(cable: Cable, tmp_path: Path) -> None:
    have_address(cable)
    cable.there("address", "add", "10.9.0.1/24", "dev", "eth1")
    cable.serve("10.9.0.1", 2049)
    with pytest.raises(StoreMissing, match=r"cannot mount 10\.9\.0\.1:/srv \(none4\)") as caught:
        volumes.mount("none4", "10.9.0.1:/srv", ["port=2049", *OPTIONS], str(tmp_path), 120)
    assert "the image lacks the kernel module" in caught.value.hint


def test_kills_a_mount_that_hangs_in_the_kernel() -> None:
    """The server accepts connections and never answers."""
    reader, writer = os.pipe()
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        network.within(signal.pause, time.monotonic() + 0.3)
    assert time.monotonic() - started < 60
    os.close(writer)
    assert select.select([reader], [], [], 0)[0], "nobody is left who holds the other end"
    os.close(reader)


def test_the_parent_reports_a_failure_of_the_child() -> None:
    def fail() -> None:
        raise OSError(13, "Permission denied: no such export", "/srv")

    with pytest.raises(PermissionError, match="no such export"):
        network.within(fail, time.monotonic() + 120)


def test_a_child_that_dies_is_a_failure() -> None:
    with pytest.raises(OSError, match="without a message"):
        network.within(lambda: os._exit(7), time.monotonic() + 120)


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("nfs4", ["addr=10.0.0.1"], ("10.0.0.1", 2049)),
        ("nfs4", ["addr=fd00::1", "port=20490"], ("fd00::1", 20490)),
        ("nfs", ["addr=10.0.0.1", "vers=3", "nolock"], ("10.0.0.1", None)),
        ("nfs4", ["addr=10.0.0.1", "proto=rdma"], ("10.0.0.1", None)),
        ("cifs", ["ip=10.0.0.1", "guest"], ("10.0.0.1", 445)),
    ],
)
def test_finds_the_address_and_port_of_the_server(
    kind: str, options: list[str], expected: tuple[str, int | None]
) -> None:
    assert (volumes.address(options, kind), volumes.port(options, kind)) == expected
