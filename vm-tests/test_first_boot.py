"""The main job: three boots of one disk, with a root that is fresh unless the administrator asks to
keep it, and declared paths that stay.

`ro` is on the kernel command line, as on distributions: the stage has to make the superblock
writable itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.disk import Disk
from vm.ephemeral import Ephemeral
from vm.machine import Machine
from vm.private_mounts import require_private
from vm.qemu import Hardware

DiskFactory = Callable[..., Disk]

LOST = ("/root/lost", "/etc/lost", "/home/talyz/lost", "/var/lib/lost")
OLD_ROOT = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ(\.\d+)?(\.unsynced)?(\.keep)?")


def report(machine: Machine) -> Any:
    return json.loads(machine.read("/run/ephemeroot/boot.json"))


def owner(machine: Machine, path: str) -> str:
    return machine.run(f"stat -c '%U:%G %a' '{path}'").out.strip()


def assert_wiped_once_before_the_mount(machine: Machine) -> None:
    """The previous content is gone, and the wiper ran once, before the mount."""
    journal = machine.journal("-u ephemeroot-wipe.service -u sysroot.mount -u ephemeroot-persist")
    wiped = [line for line in journal.splitlines() if "wipe: wiped" in line]
    assert len(wiped) == 1, journal
    assert journal.count("persist: ") == 1, journal
    order = [journal.index(word) for word in ("wipe: wiped", "Mounted sysroot.mount", "persist: ")]
    assert order == sorted(order), journal


def use(machine: Machine, number: int) -> None:
    """Write files, some of which are declared to persist."""
    for path in LOST:
        machine.write(path, f"day {number}\n")
    machine.run(
        f"echo day {number} | tee -a /var/log/diary '/srv/with blank/diary' "
        f"/var/keys/secret_file /var/lib/colord/profile"
    )
    machine.run(
        f"su talyz -c 'echo day {number} >> ~/Downloads/film; echo day {number} >> ~/.screenrc; "
        "touch ~/.ssh/authorized_keys'"
    )


def check_persisted(machine: Machine, days: int) -> None:
    expected = "".join(f"day {number}\n" for number in range(1, days + 1)).encode()
    for path in (
        "/var/log/diary", "/srv/with blank/diary", "/var/keys/secret_file",
        "/var/lib/colord/profile", "/home/talyz/Downloads/film", "/home/talyz/.screenrc",
    ):  # fmt: skip
        assert machine.read(path) == expected, path
    assert owner(machine, "/var/log") == "root:root 755"
    assert owner(machine, "/var/lib/colord") == "games:mail 750"
    assert owner(machine, "/var/keys") == "root:root 700"
    assert owner(machine, "/home/talyz") == "talyz:talyz 700"
    assert owner(machine, "/home/talyz/.ssh") == "talyz:talyz 700"
    assert owner(machine, "/home/talyz/Downloads") == "talyz:talyz 755"
    assert owner(machine, "/persistent/home/talyz") == "talyz:talyz 700"
    assert machine.run("findmnt -no FSROOT /var/log").out.strip() == "/persistent/var/log"
    # libmount itself, as used by every file manager, matches our table to the mounts
    for path in ("/srv/with blank", "/etc/hostname", "/home/talyz/Downloads"):
        assert "x-gvfs-hide" in machine.run(f"findmnt --mtab -rno OPTIONS '{path}'").out


@pytest.mark.guard
def test_two_boots_with_a_fresh_root_and_one_with_the_root_that_is_kept(
    bench: Bench, cache: Cache, ephemeral: Ephemeral, disk: DiskFactory, name: str
) -> None:
    """Only a boot shows the wipe before the mount, the binds under the real root, a clean
    shutdown.
    """
    boot = Boot(
        ephemeral.system,
        ephemeral.initrd(cache),
        (disk(ephemeral.layout(), ephemeral.system),),
        hardware=Hardware(cpus=2),  # units really run concurrently
    )
    with boot.disks[0].mounted() as top:
        (top / "root/etc/lost").write_text("of the installed system\n")
        (top / "root/var/log/installer").write_text("worth keeping\n")
    identities = []
    for number in (1, 2, 3):
        kept = number == 3
        words = ("ephemeroot.wipe=no",) if kept else ()
        machine = bench.up(replace(boot, arguments=words), name)
        assert machine.settle() == "running", machine.failed_units()
        assert machine.failed_units() == []
        said = report(machine)
        assert said["wipe"]["problems"] == []
        assert said["persist"]["problems"] == []
        if kept:
            assert "root kept: ephemeroot.wipe=no" in machine.journal()
            assert {machine.read(path) for path in LOST} == {b"day 2\n"}
        else:
            assert_wiped_once_before_the_mount(machine)
            missing = machine.run(f"ls -d {' '.join(LOST)}", check=False).out
            assert missing == ""
        # Declared before the first wipe: its content was seeded.
        assert machine.read("/var/log/installer") == b"worth keeping\n"
        identities.append(machine.read("/etc/machine-id"))
        use(machine, number)
        check_persisted(machine, number)
        machine.run("systemctl is-active ephemeroot-boot-complete.service")
        if number == 2:
            require_private(machine)
        show(number, machine, said)
        end = machine.poweroff()
        assert end.complaints == ()
        assert "DM devices detached." in end.console
    assert len(set(identities)) == 1
    assert re.fullmatch(rb"[0-9a-f]{32}\n", identities[0])
    check_history(boot.disks[0])


def check_history(disk: Disk) -> None:
    with disk.mounted() as top:
        old = sorted((top / "old_roots").iterdir())
        assert len(old) == 2
        assert all(OLD_ROOT.fullmatch(path.name) for path in old)
        lost = {path.name: (path / "etc/lost").read_text() for path in old}
        assert sorted(lost.values()) == ["day 1\n", "of the installed system\n"]
        assert (top / "root/etc/lost").read_text() == "day 3\n"
        kept = [name for name in lost if name.endswith(".keep")]
        assert [lost[name] for name in kept] == ["of the installed system\n"]
        assert not [path for path in top.iterdir() if path.name.startswith(".")]


def show(number: int, machine: Machine, said: Any) -> None:
    """Print the boot log and the duration of the stages, for runs with -s."""
    wipe, persist = said["wipe"], said["persist"]
    span = persist["started"] + persist["seconds"] - wipe["started"]
    print(f"\nboot {number}: login after {machine.boot_time:.1f} s; wipe {wipe['seconds']:.3f} s, "
          f"persistence {persist['seconds']:.3f} s, from the start of one to the end of the other "
          f"{span:.3f} s")  # fmt: skip
    print(machine.journal("-t ephemeroot -u ephemeroot-wipe -u ephemeroot-persist -o cat"))
