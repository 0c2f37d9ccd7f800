"""The faults that break the shell recipe, in a real initramfs: five boots of one partitioned disk.

A rotation that was interrupted, a clock in 2099, a plain old directory in old-roots, a power cut of
a running machine and one between the wipe and the mount; requests by `ephemeroot next-boot` and on
the kernel command line; an ephemeral /home beside the root; the root named by PARTUUID, LABEL and
UUID.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from ephemeroot.wipers.btrfs import Btrfs as Wiper
from ephemeroot.wipers.contract import Boot as WiperBoot
from vm import initramfs
from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.disk import Disk, Subvolume
from vm.ephemeral import CONFIGURATION, UUID, Ephemeral, make
from vm.machine import Machine
from vm.partition import Partitioned, partition, top_level
from vm.qemu import Hardware
from vm.system import System
from vm.verdict import Stopped

DiskFactory = Callable[..., Disk]

HOME = f"""
[[volumes]]
mount-point = "/home"
device = "UUID={UUID}"
type = "btrfs"
options = ["subvol=home"]
timeout = "20s"
wipe = {{ wiper = "btrfs", old-roots = "old_homes" }}
"""
FSTAB = "LABEL=vm / btrfs subvol=root 0 0\n"

INSTALLED = "2026-10-01T00-00-00Z.keep"
RETIRED_AT = 1790812800  # that time
PLAIN = "2001-1-1_00:00:00"
OF_RECIPE = "2024-3-7_09:05:01"

# As if the plug were pulled: no more writes, no unmount.
PULL_THE_PLUG = "[Service]\nExecStartPost=/bin/sh -c 'echo o > /proc/sysrq-trigger; sleep 60'\n"


@dataclass
class Story:
    """One disk and how it is booted."""

    bench: Bench
    boot: Boot
    name: str
    scratch: Path

    @property
    def image(self) -> Path:
        return self.boot.disks[0].image

    def up(self, root: str, *words: str, hardware: Hardware | None = None) -> Machine:
        boot = replace(self.boot, root=(f"root={root}", "rootflags=subvol=root", "ro"),
                       arguments=words, hardware=hardware or Hardware())  # fmt: skip
        machine = self.bench.up(boot, self.name)
        assert machine.settle() == "running", machine.failed_units()
        return machine

    def old(self, folder: str = "old_roots") -> list[str]:
        with partition(self.image) as device, top_level(device, self.scratch / "top") as top:
            assert not [path.name for path in top.iterdir() if path.name.startswith(".")]
            return sorted(path.name for path in (top / folder).iterdir())


@pytest.fixture(scope="module")
def with_home(cache: Cache, image: System, package: Path) -> Ephemeral:
    return make(cache, image, package, CONFIGURATION + HOME)


@pytest.fixture
def story(
    bench: Bench, cache: Cache, with_home: Ephemeral, disk: DiskFactory, name: str, scratch: Path
) -> Story:
    inner = with_home.layout()
    inner = replace(
        inner,
        subvolumes=(
            Subvolume("root-base", tree=True, files={"etc/fstab": FSTAB}),
            Subvolume("root", snapshot_of="root-base"),
            Subvolume("home"),
            Subvolume(f"old_roots/{OF_RECIPE}", files={"file": "of the recipe\n"}),
            *inner.subvolumes[2:],
        ),
    )
    made = disk(Partitioned(inner), with_home.system)
    return Story(
        bench,
        Boot(with_home.system, with_home.initrd(cache), (made,)),
        name,
        scratch,
    )


def prepare(story: Story) -> None:
    """The files that an installer and some years of the recipe left, and a rotation that was
    interrupted right after the exchange.
    """
    with partition(story.image) as device, top_level(device, story.scratch / "top") as top:
        (top / "root/etc/stray").write_text("of the installed system\n")
        (top / "home/stray").write_text("of the installed home\n")
        plain = top / "old_roots" / PLAIN
        plain.mkdir()
        (plain / "precious").write_text("never ours\n")
        os.utime(plain, (0, 0))
        os.sync()
        child = os.fork()
        if child == 0:
            rotate_and_die(str(device), story.scratch)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 99
        assert [path for path in top.iterdir() if path.name.startswith(".root.ephemeroot.")]
        assert not (top / "root/etc/stray").exists()


def rotate_and_die(device: str, scratch: Path) -> None:
    def die(line: str) -> None:
        if line.startswith("retire the previous root"):
            os._exit(99)

    settings: dict[str, object] = {option.name: option.default for option in Wiper.OPTIONS}
    try:
        Wiper(settings | {"base": "root-base"}).wipe(
            WiperBoot(device=device, subvolume="root", target="/", private=str(scratch),
                      boot_id="x", now=RETIRED_AT, synchronised=True, prove=lambda path: None,
                      log=die)
        )  # fmt: skip
    finally:
        os._exit(1)


def report(machine: Machine) -> Any:
    return json.loads(machine.read("/run/ephemeroot/boot.json"))


def there(machine: Machine, path: str) -> bool:
    return machine.run(f"test -e {path}", check=False).rc == 0


def look_into_old_roots(machine: Machine) -> None:
    """Restore files that the previous boot lost, of the root and of /home."""
    for volume, path, content in (
        ("/", "/etc/lost-at-boot", b"lost\n"), ("/home", "/home/today", b"here\n"),
    ):  # fmt: skip
        listed = json.loads(machine.run(f"ephemeroot roots list --json --volume {volume}").out)
        newest = max(
            entry["name"] for entry in listed["histories"][0]["entries"]
            if entry["kind"] == "retired" and not entry["unused"]
        )  # fmt: skip
        machine.run(f"ephemeroot roots restore {path} --from {newest}")
        assert machine.read(path) == content
        machine.run(f"mkdir /tmp/old; ephemeroot roots mount --volume {volume} {newest} /tmp/old")
        assert machine.run("touch /tmp/old/x", check=False).rc != 0
        machine.run("umount /tmp/old && rmdir /tmp/old")


def test_survives_the_faults_that_break_the_shell_recipe(story: Story, bench: Bench) -> None:
    """Only a boot shows requests, a wrong clock, power cuts and the names of the root's device in
    an initramfs.
    """
    prepare(story)
    layout_root = f"PARTUUID={Partitioned.identifier:08x}-01"
    in_2099 = Hardware(extra=("-rtc", "base=2099-01-01T00:00:00"))

    machine = story.up(layout_root, hardware=in_2099)
    said = report(machine)["wipe"]
    assert said["problems"] == []
    assert len(said["wiped /"]["recovered"]) == 1
    assert said["wiped /"]["retired"].endswith(".unused"), "the fresh root never was booted"
    assert not there(machine, "/etc/stray")
    assert not there(machine, "/home/stray")
    assert machine.run("findmnt -no FSROOT /home").out.strip() == "/home"
    machine.run("systemctl is-active ephemeroot-boot-complete.service")
    listed = json.loads(machine.run("ephemeroot roots list --json").out)["histories"]
    kinds = {entry["name"]: entry["kind"] for entry in listed[0]["entries"]}
    assert kinds[INSTALLED] == "retired"
    assert (kinds[PLAIN], kinds[OF_RECIPE]) == ("foreign", "recipe")
    assert [history["target"] for history in listed] == ["/", "/home"]
    machine.run("systemctl start ephemeroot-prune.service")
    machine.run("echo here > /home/today; echo lost > /etc/lost-at-boot; mkdir -p /srv/lost")
    status = json.loads(machine.run("ephemeroot status --json", check=False).out)
    assert (status["root"], status["wiped"]["/home"]["wiper"]) == ("ephemeral", "btrfs")
    assert [store["state"] for store in status["stores"]] == ["ok"]
    lost = json.loads(machine.run("ephemeroot diff --json").out)
    assert lost["against"] == "fresh"
    assert {"/etc/lost-at-boot", "/srv/lost"} <= {d["path"] for d in lost["differences"]}
    assert len(lost["differences"]) < 100, [d["path"] for d in lost["differences"]]
    machine.run(f"ephemeroot next-boot root {INSTALLED}")
    assert machine.poweroff().complaints == ()
    assert {INSTALLED, PLAIN, OF_RECIPE} <= set(story.old())

    machine = story.up("LABEL=vm")
    assert machine.read("/etc/stray") == b"of the installed system\n"
    assert report(machine)["wipe"]["request"] == f"next-boot root {INSTALLED}"
    assert not there(machine, "/persistent/.ephemeroot/next-boot")
    assert not there(machine, "/home/today")
    look_into_old_roots(machine)
    machine.run("echo kept > /root/kept; echo kept > /home/kept; ephemeroot next-boot keep; sync")
    machine.cut()

    machine = story.up(f"UUID={UUID}")
    assert report(machine)["wipe"]["result"] == "root kept: next-boot keep"
    assert machine.read("/root/kept") == b"kept\n"
    assert machine.read("/home/kept") == b"kept\n"
    assert machine.poweroff().complaints == ()
    before = set(story.old())

    drop_in = "etc/systemd/system/ephemeroot-wipe.service.d/cut.conf"
    initrd = initramfs.overlay(
        story.boot.initrd, {drop_in: PULL_THE_PLUG}, story.scratch / "initrd"
    )
    cut = replace(story.boot, initrd=initrd, root=("root=LABEL=vm", "rootflags=subvol=root", "ro"))
    assert isinstance(bench.boot(cut, story.name), Stopped)
    (retired,) = set(story.old()) - before
    with partition(story.image) as device, top_level(device, story.scratch / "top") as top:
        assert (top / "old_roots" / retired / "root/kept").read_text() == "kept\n"

    machine = story.up("LABEL=vm", f"ephemeroot.root={retired}")
    assert machine.read("/root/kept") == b"kept\n"
    assert report(machine)["wipe"]["wiped /"]["retired"].endswith(".unused")
    assert machine.poweroff().complaints == ()
    with partition(story.image) as device, top_level(device, story.scratch / "top") as top:
        assert (top / "old_roots" / PLAIN / "precious").read_text() == "never ours\n"
        assert (top / "old_roots" / OF_RECIPE / "file").read_text() == "of the recipe\n"
        assert (top / "old_roots" / INSTALLED / "etc/stray").exists()
        assert len(list((top / "old_homes").iterdir())) == 4
