"""The same package on Debian 12: dracut 059, Linux 6.1, Python 3.11; with systemd and without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from vm import initramfs
from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.command import Unavailable
from vm.disk import Disk, Swap
from vm.ephemeral import Ephemeral, make
from vm.image import DEBIAN_12, debian_system
from vm.inits import WITHOUT_SYSTEMD
from vm.private_mounts import require_private
from vm.verdict import Emergency, MachineLost, Stopped
from vm.wiped import require_wiped_once

DiskFactory = Callable[..., Disk]

INITS = {"systemd": (), "shell": WITHOUT_SYSTEMD}
PYTHON = "usr/bin/python3.11"


@pytest.fixture(scope="session")
def ephemeral(cache: Cache, package: Path) -> Ephemeral:
    """Debian 12 with the project, configured and applied."""
    try:
        return make(cache, debian_system(cache, DEBIAN_12), package)
    except Unavailable as error:
        pytest.skip(f"no machines here: {error}")


@pytest.fixture
def boot(
    request: pytest.FixtureRequest, ephemeral: Ephemeral, cache: Cache, disk: DiskFactory
) -> Boot:
    """A disk whose root has a file to lose, under an initramfs with that init that can resume."""
    initrd = ephemeral.initrd(cache, (*INITS[request.param], "--add", "resume"))
    disks = (disk(ephemeral.layout(), ephemeral.system), disk(Swap()))
    with disks[0].mounted() as top:
        (top / "root/etc/lost").write_text("")
        (top / "root/var/log/installer").write_text("worth keeping\n")
    return Boot(ephemeral.system, initrd, disks, arguments=("resume=/dev/vdb",), sessions=True)


@pytest.mark.parametrize(
    "boot", ["systemd", pytest.param("shell", marks=pytest.mark.proof)], indirect=True
)
def test_wiped_persisted_and_resumed(bench: Bench, boot: Boot, name: str) -> None:
    """Only a boot shows Linux 6.1 and dracut 059: mounts, the units' order, hibernation."""
    first = bench.up(boot, name)
    require_wiped_once(first)
    assert first.run("ls /etc/lost", check=False).rc != 0
    assert first.read("/var/log/installer") == b"worth keeping\n"
    first.run("systemctl is-active ephemeroot-boot-complete.service")
    # A libmount that reads the mount table itself; test_first_boot tests newer ones.
    assert "util-linux 2.38" in first.run("findmnt --version").out
    for path in ("/srv/with blank", "/etc/hostname", "/home/talyz/Downloads"):
        assert "x-gvfs-hide" in first.run(f"findmnt --mtab -rno OPTIONS '{path}'").out
    if name.endswith("systemd"):
        require_private(first)
    first.run("echo unsaved > /etc/unsaved; swapon /dev/vdb")
    assert first.hibernate().how == "poweroff"
    second = bench.up(boot, name)
    assert second.hello["boot_id"] == first.hello["boot_id"]
    assert second.read("/etc/unsaved") == b"unsaved\n"
    assert second.journal().count("wipe: wiped") == 1
    assert second.poweroff().complaints == ()
    with boot.disks[0].mounted() as top:
        assert len(list((top / "old_roots").iterdir())) == 1
        assert (top / "root/etc/unsaved").read_text() == "unsaved\n"


@pytest.mark.proof
@pytest.mark.parametrize(
    ("boot", "policy"), [("systemd", "emergency"), ("systemd", "poweroff")], indirect=["boot"]
)
def test_follows_the_policies_without_an_interpreter(
    bench: Bench, boot: Boot, name: str, scratch: Path, policy: str
) -> None:
    """The policies are followed when only the shell part of Ephemeroot runs.

    Only a boot shows what dracut 059's emergency handling does after our unit has failed.
    """
    initrd = initramfs.overlay(boot.initrd, {PYTHON: "no interpreter\n"}, scratch / "initrd")
    words = (*boot.arguments, f"ephemeroot.on-failure={policy}")
    outcome = bench.boot(replace(boot, initrd=initrd, arguments=words), name)
    if policy == "emergency":
        assert isinstance(outcome, Emergency | Stopped), str(outcome)
        console = outcome.console.read_text(errors="replace")
        assert "cannot be started" in console
        # Under systemd, dracut 059 may power off before the harness can report the emergency.
        assert isinstance(outcome, Emergency) or "Boot has failed" in console
    else:
        assert isinstance(outcome, Stopped), str(outcome)
        assert outcome.how == policy
    with boot.disks[0].mounted() as top:
        assert (top / "root/etc/lost").exists()
        assert not list((top / "old_roots").glob("*"))


@pytest.mark.parametrize("boot", ["shell"], indirect=True)
def test_follows_the_policies_without_an_interpreter_and_systemd(
    bench: Bench, boot: Boot, name: str, scratch: Path
) -> None:
    """Where dracut 059's own init may give no shell (rd.shell=0) it ends: the kernel panics.

    Only a boot shows what that init does after our hook calls die.
    """
    initrd = initramfs.overlay(boot.initrd, {PYTHON: "no interpreter\n"}, scratch / "initrd")
    words = (*boot.arguments, "ephemeroot.on-failure=emergency")
    with pytest.raises(MachineLost) as lost:
        bench.boot(replace(boot, initrd=initrd, arguments=words), name)
    console = lost.value.console.read_text(errors="replace")
    assert "cannot be started" in console
    assert "Attempted to kill init" in console
    with boot.disks[0].mounted() as top:
        assert (top / "root/etc/lost").exists()
        assert not list((top / "old_roots").glob("*"))
