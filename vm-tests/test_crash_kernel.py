"""A crash kernel writes its dump into the root that crashed, and does not wipe that root."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from vm import ephemeral, layer, packages
from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.command import Unavailable, run
from vm.disk import Disk
from vm.image import PACKAGES, debian_system
from vm.layer import File
from vm.qemu import Hardware
from vm.system import System

DiskFactory = Callable[..., Disk]

WITH_KDUMP = replace(PACKAGES, packages=(*PACKAGES.packages, "kdump-tools"))
SETTINGS = """\
USE_KDUMP=1
KDUMP_KERNEL=/boot/vmlinuz-crash
KDUMP_INITRD=/boot/initrd-crash
KDUMP_COREDIR=/var/crash
"""


@pytest.fixture
def dumping(cache: Cache) -> System:
    """A Debian with its kdump-tools."""
    try:
        system = debian_system(cache, WITH_KDUMP)
    except Unavailable as error:
        pytest.skip(f"no machines here: {error}")
    return system.on_top(layer.make(cache, files={"etc/default/kdump-tools": SETTINGS}))


def compressed_kernel(cache: Cache, system: System, scratch: Path) -> bytes:
    """The kernel of *system* as in its package: kexec starts no other form of it."""
    name = f"linux-image-{system.release}"
    (package,) = [one for one in packages.index("trixie") if one.name == name]
    run(["dpkg-deb", "--extract", packages.download(cache, package), scratch / "kernel"])
    return (scratch / f"kernel/boot/vmlinuz-{system.release}").read_bytes()


@pytest.mark.proof
def test_the_old_root_of_a_crash_has_the_dump(
    bench: Bench,
    cache: Cache,
    dumping: System,
    package: Path,
    disk: DiskFactory,
    scratch: Path,
    name: str,
) -> None:
    """Only a boot shows a kernel that crashes, and the one that is started by it."""
    made = ephemeral.make(cache, dumping, package)
    initrd = made.initrd(cache)
    crash = {
        "boot/vmlinuz-crash": File(compressed_kernel(cache, dumping, scratch)),
        "boot/initrd-crash": File(initrd.read_bytes()),
    }
    device = disk(made.layout(), made.system.on_top(layer.make(cache, files=crash)))
    boot = Boot(made.system, initrd, (device,), arguments=("crashkernel=384M",),
                hardware=Hardware(memory=1792))  # fmt: skip
    machine = bench.up(boot, name)
    assert machine.settle() == "running", machine.failed_units()
    machine.run("echo of the crash > /etc/work; echo of the store > /var/log/kept; sync")
    assert machine.read("/sys/kernel/kexec_crash_loaded") == b"1\n"
    ended = machine.leave("echo c > /proc/sysrq-trigger", timeout=420)
    assert "this is a crash kernel: it wipes nothing and mounts no declared path" in ended.console
    with device.mounted() as top:
        assert (top / "root/etc/work").read_text() == "of the crash\n"
        (written,) = (top / "root/var/crash").glob("*/vmcore*")
        dump = written.relative_to(top / "root")
        before = sorted(path.name for path in (top / "old_roots").iterdir())

    machine = bench.up(boot, name)
    assert machine.settle() == "running", machine.failed_units()
    assert machine.run("test -e /etc/work", check=False).rc != 0, "the root is fresh"
    assert machine.read("/var/log/kept") == b"of the store\n"
    machine.poweroff()
    with device.mounted() as top:
        (old,) = [path for path in (top / "old_roots").iterdir() if path.name not in before]
        assert (old / "etc/work").read_text() == "of the crash\n"
        with (old / dump).open("rb") as file:
            assert file.read(4) == b"\x7fELF", "the dump is where it was written"
