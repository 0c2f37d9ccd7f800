"""dracut with its own init instead of systemd: the same work, in hooks that the init sources."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.disk import Disk, Swap
from vm.ephemeral import UUID, Ephemeral
from vm.inits import WITHOUT_SYSTEMD
from vm.wiped import require_wiped_once

DiskFactory = Callable[..., Disk]

STRAY = "of the root that goes\n"


@pytest.fixture
def boot(ephemeral: Ephemeral, cache: Cache, disk: DiskFactory) -> Boot:
    """A disk whose root has a stray file, under an initramfs without systemd that can resume."""
    initrd = ephemeral.initrd(cache, (*WITHOUT_SYSTEMD, "--add", "resume"))
    disks = (disk(ephemeral.layout(), ephemeral.system), disk(Swap()))
    with disks[0].mounted() as top:
        (top / "root/etc/stray").write_text(STRAY)
    words = ("resume=/dev/vdb",)
    return Boot(ephemeral.system, initrd, disks, arguments=words, sessions=True)


def test_wiped_persisted_and_resumed(bench: Bench, boot: Boot, name: str) -> None:
    """Only a boot shows the order of dracut's shell hooks, and hibernation without systemd."""
    first = bench.up(boot, name)
    require_wiped_once(first)
    assert first.run("ls /etc/stray", check=False).rc != 0
    first.run("echo lost > /etc/lost; echo day 1 >> /var/log/diary; swapon /dev/vdb")
    identity = first.read("/etc/machine-id")
    assert first.hibernate().how == "poweroff"
    second = bench.up(boot, name)
    assert second.hello["boot_id"] == first.hello["boot_id"]
    assert second.read("/etc/lost") == b"lost\n"
    assert second.journal().count("wipe: wiped") == 1
    assert second.poweroff().complaints == ()
    third = bench.up(boot, name)
    require_wiped_once(third)
    assert third.run("ls /etc/lost", check=False).rc != 0
    assert third.read("/var/log/diary") == b"day 1\n"
    assert third.read("/etc/machine-id") == identity
    assert third.poweroff().complaints == ()
    with boot.disks[0].mounted() as top:
        assert len(list((top / "old_roots").iterdir())) == 2


def assert_nothing_wiped(boot: Boot) -> None:
    with boot.disks[0].mounted() as top:
        assert (top / "root/etc/stray").read_text() == STRAY
        assert not list((top / "old_roots").glob("*"))


@pytest.mark.proof
def test_a_missing_store_is_an_emergency(bench: Bench, boot: Boot, name: str) -> None:
    """Only a boot shows the emergency of dracut's own init."""
    with boot.disks[0].mounted() as top:
        (top / "persistent").rename(top / "elsewhere")
    emergency = bench.emergency(boot, name)
    assert emergency.stage == "initramfs"
    for words in (f"cannot mount UUID={UUID}", "append ephemeroot=no to the kernel command line"):
        assert words in emergency.journal, str(emergency)
    # The stage's order was followed: nothing is mounted, and dracut did not try again.
    assert " /sysroot " not in emergency.mounts
    assert_nothing_wiped(boot)
