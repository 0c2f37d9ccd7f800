"""A root on ZFS: boots of Debian of each kind. Tests without a boot are in test_zfs_pools.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import proof
from vm import powercut
from vm.bench import Bench, Boot
from vm.console import Typed
from vm.machine import Machine
from vm.powercut import Point
from vm.qemu import Hardware
from vm.system import System
from vm.verdict import Stopped
from vm.zpool import PASSPHRASE, ROLLED, ROTATED, Pool, make_pool

LOST = ("/etc/lost", "/root/lost", "/srv/lost")
KEPT = ("/var/log/diary", "/home/talyz/diary")
HARDWARE = Hardware(memory=1536)
QUESTION = "ZFS password for"

# The changes of a rollback, which is one channel program, and of each step of a rotation.
ROLLBACK = [Point(("change", ROLLED, "do"), delay) for delay in (0.02, 0, 0.05, None)]
RETIRES, PLACES = ("rename", "tank/ROOT/old-roots/"), ("rename", f"{ROTATED}.ephemeroot-new")
ROTATION = [
    Point(RETIRES),
    Point(("run", "clone"), 0.1),
    Point(("run", "clone")),
    Point(RETIRES, 0.01),
    Point(PLACES, 0.01),
    Point(PLACES),
]


@pytest.fixture(scope="module")
def pool(bench: Bench, zfs_debian: System, wheel: Path) -> Pool:
    return make_pool(bench, zfs_debian, wheel)


def check(machine: Machine, dataset: str, days: int) -> dict[str, Any]:
    """The root was wiped once, before it was mounted; return the report of the wipe."""
    assert machine.settle() == "running", (machine.failed_units(), machine.journal("-p warning"))
    said = json.loads(machine.read("/run/ephemeroot/boot.json"))
    assert [said[stage]["problems"] for stage in ("wipe", "persist")] == [[], []], said
    journal = machine.journal("-u ephemeroot-wipe.service -u sysroot.mount -u ephemeroot-persist")
    assert (journal.count("wipe: wiped"), journal.count("persist: ")) == (1, 1), journal
    order = [journal.index(word) for word in ("wipe: wiped", "Mounted sysroot.mount", "persist: ")]
    assert order == sorted(order), journal
    assert machine.run("findmnt -rno FSTYPE,SOURCE /").out.split() == ["zfs", dataset]
    assert machine.run("findmnt -rno FSTYPE,FSROOT /var/log").out.split() == ["zfs", "/var/log"]
    assert machine.run("findmnt -rno TARGET | grep -cx /").out.strip() == "1"
    expected = "".join(f"day {day}\n" for day in range(1, days)).encode()
    # Seeded from the previous root before that was wiped.
    assert machine.read("/home/talyz/seeded") == b"of the first root\n"
    for path in KEPT if days > 1 else ():
        assert machine.read(path) == expected, path
    machine.run(f"for f in {' '.join(LOST)}; do echo lost > $f; done")
    machine.run(f"echo day {days} | tee -a {' '.join(KEPT)}")
    machine.run("systemctl is-active ephemeroot-boot-complete.service")
    state = machine.run(f"zfs get -Ho value ephemeroot:state {dataset}").out.strip()
    assert state == "boot-complete"
    print(f"\nboot {days}: login after {machine.boot_time:.1f} s")
    wiped: dict[str, Any] = said["wipe"]["wiped /"]
    return wiped


def cut(bench: Bench, boot: Boot, point: Point, scratch: Path, name: str) -> None:
    """Boot until the wipe stage reaches that point, where the power fails."""
    initrd = powercut.initrd(boot.initrd, point, scratch / "cut.img")
    stopped = bench.boot(replace(boot, initrd=initrd), name)
    assert isinstance(stopped, Stopped), (point, stopped)
    assert "cut the power: " in stopped.console.read_text(errors="replace"), (point, stopped)


def lost(machine: Machine) -> list[str]:
    return machine.run(f"ls -d {' '.join(LOST)}", check=False).out.split()


def test_rollbacks_of_a_root_on_zfs(pool: Pool, bench: Bench, scratch: Path, name: str) -> None:
    """The passphrase of the store is typed: it has a key, and the root has none.

    Only a boot shows a ZFS root that dracut's module imports and mounts.
    """
    boot = Boot(
        pool.roll_back.system,
        pool.initrds[1],
        (pool.disk.copy(scratch / "pool.raw"),),
        root=(f"root=zfs:{ROLLED}", "ro"),
        hardware=HARDWARE,
        typed=(Typed(f"{QUESTION} tank/keep", PASSPHRASE),),
    )
    identities = set()
    for number in range(1, proof.rounds(2, 3) + 1):
        machine = bench.up(boot, name)
        assert lost(machine) == []
        check(machine, ROLLED, number)
        identities.add(machine.read("/etc/machine-id"))
        # A later snapshot is destroyed with the content that was written.
        snapshots = machine.run(f"zfs list -Ho name -t snapshot -r {ROLLED}").out.split()
        assert snapshots == [f"{ROLLED}@blank"]
        machine.run(f"zfs snapshot {ROLLED}@day-{number}")
        foresee(machine, f"{ROLLED}@day-{number}")
        assert "keeps no old roots" in machine.run("ephemeroot roots list", check=False).out + (
            machine.run("ephemeroot roots delete x --yes", check=False).err
        )
        if number == 2:
            machine.run("sync")
            machine.cut()  # so that the pool was not exported
            if proof.is_whole():
                another_host(bench, boot, name)
        else:
            assert machine.poweroff().complaints == ()
        for point in ROLLBACK[: proof.rounds(1, len(ROLLBACK))] if number == 1 else ():
            cut(bench, boot, point, scratch, name)
    assert len(identities) == 1


def foresee(machine: Machine, snapshot: str) -> None:
    """`ephemeroot check` warns exactly of the refusals of the next boot."""
    said = machine.run("ephemeroot check")
    assert "is held" not in said.out + said.err, said
    machine.run(f"zfs hold mine {snapshot}")
    said = machine.run("ephemeroot check", check=False)
    assert f"{snapshot} is held (mine)" in said.out + said.err, said
    machine.run(f"zfs release mine {snapshot}")


def another_host(bench: Bench, boot: Boot, name: str) -> None:
    """A pool that another host uses, as far as ZFS can know: nothing is wiped."""
    root = (*boot.root, "spl.spl_hostid=0x11223344")
    emergency = bench.emergency(replace(boot, root=root), name)
    problems = json.dumps((emergency.report or {}).get("wipe", {}).get("problems"))
    assert "the pool tank is not imported" in problems, emergency
    assert "'zpool import -N -f tank'" in problems, emergency


def rotating(pool: Pool, scratch: Path) -> Boot:
    """The encrypted root that is rotated, with its passphrase, on a separate disk."""
    return Boot(
        pool.rotate.system,
        pool.initrds[0],
        (pool.disk.copy(scratch / "pool.raw"),),
        root=(f"root=zfs:{ROTATED}", "ro"),
        hardware=HARDWARE,
        typed=(Typed(QUESTION, PASSPHRASE),),
    )


@pytest.mark.proof
def test_three_rotations_of_an_encrypted_root(
    pool: Pool, bench: Bench, scratch: Path, name: str
) -> None:
    """Its passphrase is typed, the first time incorrectly.

    Only a boot shows a ZFS root whose key is asked for, rotated before it is mounted.
    """
    boot = rotating(pool, scratch)
    emergency = bench.emergency(replace(boot, typed=(Typed(QUESTION, "no horse"),)), name)
    problems = json.dumps(emergency.report["wipe"]["problems"])
    assert f"the key of {ROTATED} is not loaded" in problems, emergency
    assert "zfs load-key tank/ROOT" in problems, emergency
    assert "wiped /" not in emergency.report["wipe"]

    retired = []
    machine = bench.up(boot, name)
    for number in (1, 2):
        assert lost(machine) == []
        said = check(machine, ROTATED, number)
        retired.append(said["retired"])
        assert said["kept"] == retired, "nothing was retired by the boot without a key"
        assert machine.run("zpool get -Ho value bootfs tank").out.strip() == ROTATED
        if number == 1:
            assert machine.poweroff().complaints == ()
            machine = bench.up(boot, name)
    assert retired[0].endswith(".keep")
    look_into_old_roots(machine, retired)
    machine.run("systemctl start ephemeroot-prune.service")
    machine.run(f"ephemeroot next-boot root {retired[1]}")
    assert machine.poweroff().complaints == ()

    machine = bench.up(boot, name)
    # The root of the first day again, with its lost files; that of the second day is retired.
    assert lost(machine) == list(LOST)
    said = check(machine, ROTATED, 3)
    assert said["kept"] == [*retired, said["retired"]]
    origin = machine.run(f"zfs get -Ho value origin {ROTATED}").out.strip()
    assert origin.startswith(f"tank/ROOT/old-roots/{retired[1]}@ephemeroot-")
    refused = machine.run(f"ephemeroot roots delete {retired[1]} --yes", check=False)
    assert refused.rc != 0
    assert "is a clone of" in refused.err
    machine.run(f"ephemeroot roots delete {said['retired']} --yes")
    assert machine.poweroff().complaints == ()


@pytest.mark.proof
def test_power_cuts_during_a_rotation(pool: Pool, bench: Bench, scratch: Path, name: str) -> None:
    """One of the next two boots completes each rotation; nothing is lost.

    Only a boot shows a power cut that the pool survives without having been exported.
    """
    boot = rotating(pool, scratch)
    machine = bench.up(boot, name)
    check(machine, ROTATED, 1)
    for number, points in ((2, ROTATION[:1]), (3, ROTATION[1:])):
        machine.run("sync")
        machine.cut()
        for point in points:
            cut(bench, boot, point, scratch, name)
        machine = bench.up(boot, name)
        assert lost(machine) == []
        said = check(machine, ROTATED, number)
        assert machine.run("zpool get -Ho value bootfs tank").out.strip() == ROTATED
        found = machine.run("zfs list -Hro name tank/ROOT").out.split()
        assert f"{ROTATED}.ephemeroot-new" not in found
        complete = [one for one in said["kept"] if not one.endswith(".unused")]
        assert len(complete) == number, said
        # The root of each day exists, with the files of that day.
        machine.run("mkdir -p /tmp/old")
        for old in complete[1:]:
            machine.run(f"ephemeroot roots mount {old} /tmp/old")
            assert machine.read(f"/tmp/old{LOST[0]}") == b"lost\n", old
            machine.run("umount /tmp/old")
    assert machine.poweroff().complaints == ()


def look_into_old_roots(machine: Machine, retired: list[str]) -> None:
    """On the second day: restore files that the first day lost, from its root."""
    first = retired[1]
    (listed,) = json.loads(machine.run("ephemeroot roots list --json").out)["histories"]
    assert listed["old-roots"] == "tank/ROOT/old-roots"
    assert [entry["name"] for entry in listed["entries"]] == retired
    shown = json.loads(machine.run(f"ephemeroot roots show {first} --json").out)
    assert shown["state"] == "boot-complete"
    assert shown["size"] > shown["exclusive"] > 0
    machine.run(f"rm {LOST[1]}")
    told = json.loads(machine.run(f"ephemeroot roots diff {first} --json", timeout=180).out)
    changes = {one["path"]: one["change"] for one in told["differences"]}
    # Both days have lost the same, except for one file.
    assert changes.get(LOST[1]) == "deleted", changes
    assert not {LOST[0], LOST[2]} & set(changes), changes
    machine.run(f"mkdir /tmp/old; ephemeroot roots mount {first} /tmp/old")
    assert machine.read(f"/tmp/old{LOST[1]}") == b"lost\n"
    assert machine.run("touch /tmp/old/x", check=False).rc != 0
    refused = machine.run(f"ephemeroot roots delete {first} --yes", check=False)
    assert "is mounted" in refused.err
    machine.run("umount /tmp/old; rmdir /tmp/old")
    machine.run(f"ephemeroot roots restore {LOST[1]} --from {first}")
    assert machine.read(LOST[1]) == b"lost\n"
