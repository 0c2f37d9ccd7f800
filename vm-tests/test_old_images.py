"""Images in every boot menu: one of an earlier configuration, and one for rescue."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.disk import Disk
from vm.ephemeral import Ephemeral
from vm.inits import GENERIC, WITHOUT_SYSTEMD
from vm.machine import Machine
from vm.wiped import require_wiped_once

DiskFactory = Callable[..., Disk]

STRAY = b"of the root that stays\n"

# Declared between the two images.
CHANGE = """sed -i 's,"/var/log",& \\, "/srv/new",' /etc/ephemeroot/ephemeroot.toml"""
RESCUE = ("--add", "rescue", *GENERIC)


def bound(machine: Machine, path: str) -> str:
    return machine.run(f"findmnt -no FSROOT {path}", check=False).out.strip()


def test_the_older_of_two_images_does_not_wipe(
    bench: Bench, cache: Cache, ephemeral: Ephemeral, disk: DiskFactory, name: str
) -> None:
    """It binds by the newer plan; the rescue image only boots the root; then the newer image wipes.

    Only a boot shows images of two generations and a rescue image, each started.
    """
    newer = ephemeral.applied_again(cache, CHANGE)
    target = disk(newer.layout(), newer.system)
    with target.mounted() as top:
        (top / "root/etc/stray").write_bytes(STRAY)
    older = Boot(newer.system, ephemeral.initrd(cache, WITHOUT_SYSTEMD), (target,))

    machine = bench.up(older, name)
    assert machine.settle() == "running", machine.failed_units()
    said = json.loads(machine.read("/run/ephemeroot/boot.json"))
    assert "this image is of generation 1" in said["wipe"]["problems"][0]["problem"]
    assert "an older image does not wipe" in machine.console.read_text(errors="replace")
    assert "follow generation 2" in said["persist"]["problems"][0]["problem"]
    assert machine.read("/etc/stray") == STRAY
    assert bound(machine, "/srv/new") == "/persistent/srv/new"
    machine.run("echo worth keeping > /srv/new/diary")
    assert machine.poweroff().complaints == ()

    machine = bench.up(replace(older, initrd=newer.initrd(cache, RESCUE)), name)
    assert machine.settle() == "running", machine.failed_units()
    assert machine.read("/etc/stray") == STRAY
    assert [bound(machine, path) for path in ("/srv/new", "/var/log")] == ["", ""]
    assert machine.run("ls -d /run/ephemeroot", check=False).rc != 0
    assert "ephemeroot: " not in machine.journal("-k")
    assert machine.poweroff().complaints == ()
    with target.mounted() as top:
        assert not list((top / "old_roots").glob("*"))

    machine = bench.up(replace(older, initrd=newer.initrd(cache)), name)
    require_wiped_once(machine)
    assert machine.run("ls /etc/stray", check=False).rc != 0
    assert machine.read("/srv/new/diary") == b"worth keeping\n"
    machine.cut()
