"""Images of a real mkinitcpio, of both kinds: fresh, persisted, resumed, failing closed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from vm import initramfs, mkinitcpio
from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.command import Unavailable
from vm.disk import Disk, Swap
from vm.ephemeral import Ephemeral, make
from vm.image import FOR_MKINITCPIO, debian_system
from vm.verdict import Emergency, Stopped
from vm.wiped import require_wiped_once

DiskFactory = Callable[..., Disk]

STRAY = "of the root that goes\n"


@pytest.fixture(scope="session")
def ephemeral(cache: Cache, wheel: Path) -> Ephemeral:
    """The system with that mkinitcpio and the project, configured and applied."""
    try:
        mkinitcpio.prefix()
        image = mkinitcpio.installed(cache, debian_system(cache, FOR_MKINITCPIO))
    except Unavailable as error:
        pytest.skip(str(error))
    return make(cache, image, wheel, generator="mkinitcpio")


@pytest.fixture(params=["udev", "systemd"])
def boot(
    request: pytest.FixtureRequest, ephemeral: Ephemeral, cache: Cache, disk: DiskFactory
) -> Boot:
    """A disk whose root has a stray file, under an initramfs of that kind."""
    initrd = mkinitcpio.make(cache, ephemeral.system, mkinitcpio.HOOKS[request.param])
    disks = (disk(ephemeral.layout(), ephemeral.system), disk(Swap()))
    with disks[0].mounted() as top:
        (top / "root/etc/stray").write_text(STRAY)
    return Boot(ephemeral.system, initrd, disks, arguments=("resume=/dev/vdb",))


def test_wiped_persisted_and_resumed(bench: Bench, boot: Boot, name: str) -> None:
    first = bench.up(boot, name)
    require_wiped_once(first)
    assert first.run("ls /etc/stray", check=False).rc != 0
    first.run("echo lost > /etc/lost; echo day 1 >> /var/log/diary; swapon /dev/vdb")
    assert first.hibernate().how == "poweroff"
    second = bench.up(boot, name)
    assert second.hello["boot_id"] == first.hello["boot_id"]
    assert second.read("/etc/lost") == b"lost\n"
    assert second.poweroff().complaints == ()
    third = bench.up(boot, name)
    require_wiped_once(third)
    assert third.run("ls /etc/lost", check=False).rc != 0
    assert third.read("/var/log/diary") == b"day 1\n"
    third.cut()
    with boot.disks[0].mounted() as top:
        assert len(list((top / "old_roots").iterdir())) == 2


@pytest.mark.parametrize("policy", ["emergency", "reboot"])
def test_no_interpreter(bench: Bench, boot: Boot, name: str, scratch: Path, policy: str) -> None:
    """The policies are obeyed when nothing of ours but the shell runs."""
    python = "usr/bin/python3.13"
    initrd = initramfs.overlay(boot.initrd, {python: "no interpreter\n"}, scratch / "initrd")
    words = (*boot.arguments, f"ephemeroot.on-failure={policy}")
    outcome = bench.boot(replace(boot, initrd=initrd, arguments=words), name)
    if policy == "emergency":
        assert isinstance(outcome, Emergency), str(outcome)
        assert "cannot be started" in outcome.journal
    else:
        assert isinstance(outcome, Stopped), str(outcome)
        assert outcome.how == policy
    with boot.disks[0].mounted() as top:
        assert (top / "root/etc/stray").read_text() == STRAY
        assert not list((top / "old_roots").glob("*"))
