"""The files that an image gets for a volume on the network are enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from ephemeroot.cli import main
from ephemeroot.hooks.guards import fsck
from ephemeroot.hooks.operations import network
from ephemeroot.hooks.operations.network import Network
from ephemeroot.hooks.operations.volumes import MountVolume
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.plan import Plan
from ephemeroot.image import assembly, contents, entry, nics, units, verification
from ephemeroot.image.contents import Contents
from ephemeroot.image.generators.dracut import requirements as dracut
from ephemeroot.image.generators.dracut.target import DracutTarget
from image_plans import bundled, plan, volume

STATIC = Network(interface="lo", addresses=["10.9.0.7/24"], gateways=["10.9.0.1"])

# In a separate network namespace, without mounts: all the functions of pyroute2 that the stage
# uses.
ALL_OF_IT = f"""
import sys
sys.path.insert(0, "/usr/lib/ephemeroot")
import boot
boot.load()
import ctypes
assert ctypes.CDLL(None).unshare(0x40000000) == 0
from ephemeroot.hooks import plan; from ephemeroot.hooks.operations import network
static = plan.load("/usr/lib/ephemeroot/plan.json").wipe[0]
assert static.execute(None) == "set up"
assert static.execute(None) == "already set up"
try:
    network.mount("nfs4", "10.9.0.7:/srv", ["addr=10.9.0.7", "port=1"], "/", 1)
except network.StoreMissing as error:
    assert "tried 10.9.0.7 port 1: connection refused" in error.message, error
    print("{entry.POSITIVE} all of it")
"""


def remote(kind: str = "nfs4", *options: str) -> MountVolume:
    return volume(device="10.9.0.1:/srv", type=kind, options=["addr=10.9.0.1", *options])


def with_network(*first: Network, kind: str = "nfs4", options: tuple[str, ...] = ()) -> Plan:
    made = plan()
    made.wipe[:1] = [*first, remote(kind, *options)]
    return made


def put_together(top: Path, made: Plan, init: str = "systemd") -> Contents:
    done = assembly.put_together(top, made.dump(), DracutTarget(init))
    assert done.reason is None
    return done


def names(made: Contents) -> set[str]:
    return {made.tree.name(path) for path in made.tree.files()}


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Contents:
    return put_together(tmp_path_factory.mktemp("image") / "tree", with_network(STATIC))


@pytest.mark.requires_root
def test_the_packed_files_are_enough(static: Contents) -> None:
    settings = (static.tree.top / contents.SETTINGS.lstrip("/")).read_text().splitlines()
    python = next(line for line in settings if line.startswith("python="))
    command = [python.removeprefix("python="), "-I", "-S", "-B", "-c", ALL_OF_IT]
    verification.verify(static.tree, command)


@pytest.mark.requires_root
def test_loads_the_kernels_modules_in_order(static: Contents) -> None:
    assert {"nfs", "nfsv4"} <= set(static.modules)
    drop_in = static.tree.top / "usr/lib/systemd/system/ephemeroot-wipe.service.d/network.conf"
    assert "After=systemd-networkd.service\n" in drop_in.read_text()
    assert "Requires" not in drop_in.read_text()
    assert static.waits == {}, "no device is waited for"


@pytest.mark.requires_root
def test_packs_no_network_parts_without_a_network_volume(tmp_path: Path) -> None:
    made = put_together(tmp_path / "tree", plan())
    found = names(made) | bundled(made).index.keys()
    for word in ("pyroute2", "socket", "asyncio", "libssl", "sqlite", "linux.network"):
        assert not any(word in name for name in found), word


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("nfs4", ("vers=4.2",), ["nfsv4"]),
        ("nfs", ("vers=3", "nolock"), ["nfsv3"]),
        ("nfs", ("nfsvers=4.1",), ["nfsv4"]),
        ("cifs", (), []),
    ],
)
def test_packs_the_modules_of_an_nfs_version(
    kind: str, options: tuple[str, ...], expected: list[str]
) -> None:
    assert nics.of_volume(remote(kind, *options)) == expected


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (with_network(), ["network"]),
        (with_network(STATIC), ["kernel-network-modules"]),
        (plan(), []),
    ],
    ids=["the generator's", "static", "none"],
)
def test_requests_the_parts_of_dracut(made: Plan, expected: list[str]) -> None:
    assert any(isinstance(operation, Wipe) for operation in made.wipe)
    assert dracut.of_network(made) == expected


def test_packs_the_network_drivers_of_this_machine(tmp_path: Path) -> None:
    module = tmp_path / "module/virtio_net"
    module.mkdir(parents=True)
    for interface in ("eth0", "eth1"):
        driver = tmp_path / f"net/{interface}/device/driver"
        driver.mkdir(parents=True)
        (driver / "module").symlink_to(module)
    (tmp_path / "net/lo").mkdir()
    assert nics.drivers(str(tmp_path / "net")) == ["virtio_net"]


@pytest.mark.parametrize("kind", sorted(network.TYPES))
def test_waits_for_no_device_and_checks_none(kind: str) -> None:
    assert not units.is_on_device(kind)
    assert not fsck.is_checked(kind)


def test_only_root_can_read_a_plan_with_a_password() -> None:
    secret = with_network(kind="cifs", options=("username=a", "password=b"))
    assert (secret.mode, with_network().mode) == (0o600, 0o644)


@pytest.mark.requires_root
@pytest.mark.parametrize(
    ("hooks", "made", "warned"),
    [
        ("base udev block ephemeroot", with_network(), True),
        ("base udev block net ephemeroot", with_network(), False),
    ],
    ids=["none", "net"],
)
def test_warns_of_hooks_that_set_up_no_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], hooks: str, made: Plan, warned: bool
) -> None:
    (tmp_path / "etc/ephemeroot").mkdir(parents=True)
    (tmp_path / "etc/ephemeroot/plan.json").write_bytes(made.dump())
    words = ["image", "--root", str(tmp_path), "--into", str(tmp_path / "made"), "--hooks", hooks]
    assert main([*words, "--configured-hooks", hooks]) == 0
    assert ("but HOOKS contains no network hook: add net" in capsys.readouterr().err) == warned
