"""Which root the previous boot used: its layer, an older one, or the kept installed root.

Boots of an overlay root alternate between layers and the installed root. Seeding and copying back
use the root of the last complete boot, whatever the clock says.
"""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path

import pytest

import proof
from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.operations.copies import Copy
from ephemeroot.hooks.operations.directories import Directory, Parent
from ephemeroot.hooks.operations.files import File
from layered_machine import KEPT, STORE, LayeredMachine, layered_machine, two_disks
from overlay_machine import DAY, NOON, InstalledRoot, fill, overlay_machine

pytestmark = [pytest.mark.requires_loop, pytest.mark.requires_program("mkfs.ext4")]

ETC = Parent(path="/etc", store=STORE, source="etc")


def declared(number: int) -> Operation:
    return File(path=f"/etc/new{number}", store=STORE, source=f"etc/new{number}")


def test_a_path_declared_in_a_kept_boot_is_seeded_from_the_installed_root(tmp_path: Path) -> None:
    with layered_machine(tmp_path) as machine:
        with InstalledRoot(machine.disks) as top:
            (top / "etc/app.conf").write_text("by the installer")
            (top / "opt").mkdir()
        machine.boot()
        (machine.root / "etc/app.conf").write_text("an edit that is thrown away")
        (machine.root / "opt").rmdir()
        machine.boot(KEPT)
        assert machine.type_of_root() == "ext4"
        (machine.root / "etc/app.conf").write_text("by the administrator")
        (machine.root / "opt/app").mkdir()
        (machine.root / "opt/app/data").write_text("installed in the kept boot")
        machine.generation = 2
        machine.persist = [
            ETC, File(path="/etc/app.conf", store=STORE, source="etc/app.conf"),
            Parent(path="/opt", store=STORE, source="opt"),
            Directory(path="/opt/app", store=STORE, source="opt/app"),
        ]  # fmt: skip
        assert machine.boot() == [0, 0]
        assert (machine.root / "etc/app.conf").read_text() == "by the administrator"
        assert (machine.root / "opt/app/data").read_text() == "installed in the kept boot"


def test_the_second_kept_boot_seeds_from_the_installed_root_itself(tmp_path: Path) -> None:
    with layered_machine(tmp_path) as machine:
        machine.boot()
        machine.boot(KEPT)
        (machine.root / "etc/new0").write_text("made in the first kept boot")
        machine.persist = [ETC, declared(0)]
        assert machine.boot(KEPT) == [0, 0]
        assert (machine.store / "etc/new0").read_text() == "made in the first kept boot"


@pytest.mark.parametrize("before", proof.sample([1, 2, 12], 1))
def test_a_kept_boot_with_a_full_store_is_the_previous_one(tmp_path: Path, before: int) -> None:
    """Its record replaces the last one in place, whose blocks the store already has."""
    with layered_machine(tmp_path) as machine:
        for number in range(before):
            machine.boot(complete=number == 0)
            (machine.root / "etc/new0").write_text("an edit that is thrown away")
        filling = [*fill(machine.disks.volume), *machine.disks.volume.glob("fill-*")]
        assert machine.boot(KEPT) == [0, 0]
        (machine.root / "etc/new0").write_text("by the administrator")
        machine.power_off()
        subprocess.run(["rm", "-r", "-f", *filling], check=True)
        machine.persist = [ETC, declared(0)]
        machine.generation = 2
        assert machine.boot() == [0, 0]
        assert (machine.root / "etc/new0").read_text() == "by the administrator"


BOOTS = {"layer": "", "kept": KEPT, "cut": ""}
"""Kinds of boots: over the installed root, of the installed root itself, and one that never
completes.
"""

SEQUENCES = [
    (*kinds, "layer")
    for length in (1, 2, 3, 4)
    for kinds in itertools.product(BOOTS, repeat=length)
]


@pytest.mark.parametrize("memory", [False, True], ids=["volume", "memory"])
@pytest.mark.parametrize("kinds", proof.sample(SEQUENCES, 1, seed=3), ids="-".join)
def test_boots_in_any_order_seed_from_the_last_complete_one(
    tmp_path: Path, kinds: tuple[str, ...], memory: bool
) -> None:
    """Each boot creates a file that the next boots declare, and changes one with ``method =
    "copy"``; the power fails before it is copied back.
    """
    with layered_machine(tmp_path, memory=memory) as machine:
        machine.persist = [ETC, Copy(path="/etc/diary", store=STORE, source="etc/diary")]
        with InstalledRoot(machine.disks) as top:
            (top / "etc/diary").write_text("")
        diary = ""
        for number, kind in enumerate(kinds):
            if number:
                machine.persist.append(declared(number - 1))
                machine.generation += 1
            codes = machine.boot(BOOTS[kind], complete=kind != "cut")
            assert codes[0] == 0
            assert (machine.root / "etc/diary").read_text() == diary, number
            if kind == "cut" or (memory and kind == "layer"):
                continue  # files of such a boot are lost, or were never seen
            diary = f"boot {number}"
            (machine.root / "etc/diary").write_text(diary)
            (machine.root / f"etc/new{number}").write_text(diary)
        complete = [
            number
            for number, kind in enumerate(kinds[:-1])
            if kind == "kept" or (kind == "layer" and not memory)
        ]
        for number in complete[-1:] if kinds[-2] != "cut" else ():
            assert (machine.store / f"etc/new{number}").read_text() == f"boot {number}"


def shadow(name: str) -> str:
    return f"root:{name}:19000:0:99999:7:::\n"


def test_a_layer_over_another_root_is_foreign(tmp_path: Path) -> None:
    """Two roots without an ID, or one root that was installed again, with one volume for layers."""
    with (
        two_disks(tmp_path / "one") as (first, layers),
        two_disks(tmp_path / "two") as (second, store),
    ):
        one = LayeredMachine(first, layers)
        two = LayeredMachine(second, store, layers=layers)
        for machine in (one, two):
            machine.settings |= {"keep-days": 0, "keep-last": 0}
            with InstalledRoot(machine.disks) as top:
                (top / "etc/shadow").write_text(shadow(machine.disks.base.name))
        one.boot()
        one.boot()
        assert (one.root / "etc/shadow").read_text() == shadow("one")
        (one.root / "etc/lost").write_text("of one")
        one.power_off()
        before = one.disks.old()
        two.persist = [ETC, Copy(path="/etc/shadow", store=STORE, source="etc/shadow"),
                       File(path="/etc/lost", store=STORE, source="etc/lost")]  # fmt: skip
        for _ in range(3):
            assert two.boot()[0] == 0
            assert (two.store / "etc/shadow").read_text() == shadow("two")
            assert not (two.store / "etc/lost").exists()
            two.power_off()
        # The other root's layers stay, and so does the source for seeding the first one.
        assert len(one.disks.old()) >= len(before) + 1
        one.persist, one.generation = (
            [ETC, File(path="/etc/lost", store=STORE, source="etc/lost")],
            2,
        )
        assert one.boot() == [0, 0]
        assert (one.store / "etc/lost").read_text() == "of one"


def test_a_clock_that_goes_back_does_not_make_the_oldest_layer_the_newest(tmp_path: Path) -> None:
    """A machine without a battery, whose clock starts in 1970 at each boot."""
    seen: list[str] = []
    # 1970, 2099, backwards within a minute, and twice in one second.
    times = [NOON, NOON + DAY, 0, 7, 3, 3, 130 * 365 * DAY, NOON, NOON - 1, NOON - 1, NOON]

    def previous(path: str, complete: bool) -> None:
        seen.append(Path(path, "etc/word").read_text())

    with overlay_machine(tmp_path) as machine:
        for number, now in enumerate(times):
            machine.wipe(now, synchronised=now > DAY, previous=previous)
            (machine.sysroot / "etc/word").write_text(str(number))
            machine.live()
        machine.wipe(5, synchronised=False, previous=previous)  # never completes
        machine.wipe(4, synchronised=False, previous=previous)
        last = str(len(times) - 1)
        assert seen == [*map(str, range(len(times))), last]
        with machine.history() as history:
            newest = history.newest_complete()
            assert newest is not None
            word = machine.folder / "old-uppers" / newest.text / "etc/word"
            assert word.read_text() == last


def test_the_number_of_a_layer_is_never_reused(tmp_path: Path) -> None:
    with overlay_machine(tmp_path) as machine:
        machine.settings |= {"keep-days": 0, "keep-last": 0}
        given = [machine.wipe(NOON + number).fresh["layer"] for number in range(4)]
        assert machine.old() == []
        numbers = [int(identity.split()[0]) for identity in given]
        assert numbers == [1, 2, 3, 4]


DAMAGE = (b"", b"[]", b'{"version": 1, "systems": {"": [{"x": 1}]}}', b'{"version": 2}')


def test_a_damaged_record_does_not_stop_a_boot(tmp_path: Path) -> None:
    with layered_machine(tmp_path) as machine:
        machine.persist = [ETC]
        for number, damage in enumerate(DAMAGE):
            assert machine.boot() == [0, 0]
            (machine.root / f"etc/new{number}").write_text("of the newest layer")
            machine.power_off()
            record = machine.store / ".ephemeroot/booted"
            assert json.loads(record.read_bytes())["systems"][""]
            record.write_bytes(damage)
            machine.persist.append(declared(number))
            machine.generation += 1
        machine.boot()
        for number in range(len(DAMAGE)):
            assert (machine.store / f"etc/new{number}").read_text() == "of the newest layer"


def test_the_record_of_links_belongs_to_the_root_that_has_them(tmp_path: Path) -> None:
    """A boot that never completes makes a link, and a service writes through it. The root of the
    previous boot has a file there, with which no program replaced a link.
    """
    with layered_machine(tmp_path) as machine:
        machine.boot()
        (machine.root / "etc/app").write_text("before it was declared")
        machine.generation = 2
        link = File(path="/etc/app", store=STORE, source="etc/app", method="symlink")
        machine.persist = [ETC, link]
        assert machine.boot(complete=False) == [0, 0]
        (machine.store / "etc/app").write_text("by the service")
        for _ in range(2):
            assert machine.boot() == [0, 0]
            assert (machine.store / "etc/app").read_text() == "by the service"
            assert not (machine.store / "etc/app.ephemeroot-previous").exists()
        # In the root that has the link, a file that replaces it is stored.
        (machine.root / "etc/app").unlink()
        (machine.root / "etc/app").write_text("by a program")
        machine.boot()
        assert (machine.store / "etc/app").read_text() == "by a program"
