"""Debian's kdump-tools: a kernel crashes, another one writes the dump, the next boot wipes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.disk import Disk
from vm.ephemeral import CONFIGURATION, UUID, Ephemeral, make
from vm.image import WITH_KDUMP, debian_system
from vm.qemu import Hardware

DiskFactory = Callable[..., Disk]

WORDS = f"root=UUID={UUID} rootflags=subvol=root ro\n"
KDUMP = 'USE_KDUMP=1\nKDUMP_COREDIR="/var/crash"\nMAKEDUMP_ARGS="-d 31 -l"\n'


@pytest.fixture(scope="session")
def dumping(cache: Cache, package: Path) -> Ephemeral:
    """A machine that has kdump-tools; the store has nothing of /var/crash."""
    return make(
        cache,
        debian_system(cache, WITH_KDUMP),
        package,
        CONFIGURATION,
        others={"etc/kernel/cmdline": WORDS, "etc/default/kdump-tools": KDUMP},
    )


@pytest.mark.proof
def test_a_crash_kernel_writes_its_dump_into_the_root_that_crashed(
    bench: Bench, cache: Cache, dumping: Ephemeral, disk: DiskFactory, name: str
) -> None:
    """Only a boot shows a kernel that is started by a crash, with the image that wipes."""
    (device,) = disks = (disk(dumping.layout(), dumping.system),)
    release, initrd = dumping.system.release, dumping.initrd(cache)
    with device.mounted() as top:
        for root in ("root", "root-base"):
            folder = top / root / "boot"
            folder.mkdir(exist_ok=True)
            shutil.copyfile(dumping.system.kernel, folder / f"vmlinux-{release}")
            shutil.copyfile(initrd, folder / f"initrd.img-{release}")
    hardware = Hardware(memory=1536)
    boot = Boot(dumping.system, initrd, disks, arguments=("crashkernel=640M",), hardware=hardware)

    machine = bench.up(boot, name)
    assert machine.settle() == "running", machine.failed_units()
    assert machine.read("/sys/kernel/kexec_crash_loaded").strip() == b"1", machine.journal()
    machine.run("echo of the crash > /etc/trace && sync")
    with_crash = machine.leave("echo c > /proc/sysrq-trigger", timeout=300)
    assert with_crash.how == "reboot"
    assert "this is a crash kernel: nothing is wiped and nothing bound" in with_crash.console
    with device.mounted() as top:
        old = sorted(path.name for path in (top / "old_roots").iterdir())
        assert len(old) == 1, "only the root that the first boot has replaced"
        assert (top / "root/etc/trace").read_text() == "of the crash\n"
        assert list((top / "root/var/crash").glob("*/dump*")), "the dump is in the root"

    machine = bench.up(replace(boot, arguments=()), name)
    assert machine.settle() == "running", machine.failed_units()
    assert machine.run("test -e /etc/trace", check=False).rc != 0, "the root is fresh"
    machine.poweroff()
    with device.mounted() as top:
        (crashed,) = [p for p in (top / "old_roots").iterdir() if p.name not in old]
        assert (crashed / "etc/trace").read_text() == "of the crash\n"
        assert list((crashed / "var/crash").glob("*/dump*"))
