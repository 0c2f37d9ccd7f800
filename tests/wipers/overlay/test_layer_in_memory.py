"""If no layer can be made on the volume, the layer is in memory, and the installed root is not
changed.

The causes are generated; each is followed by a boot without a fault.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import proof
from ephemeroot.cli import status
from ephemeroot.hooks.operations.copies import Copy
from ephemeroot.hooks.operations.directories import Parent
from ephemeroot.hooks.operations.files import File
from layered_machine import KEPT, STORE, LayeredMachine, content, layered_machine, two_disks
from overlay_machine import InstalledRoot, fill

pytestmark = [pytest.mark.requires_loop, pytest.mark.requires_program("mkfs.ext4")]

IN_MEMORY = 12
ETC = Parent(path="/etc", store=STORE, source="etc")

Cure = Callable[[], None]


def full(machine: LayeredMachine) -> Cure:
    made = [*fill(machine.disks.volume), *machine.disks.volume.glob("fill-*")]

    def cure() -> None:
        subprocess.run(["rm", "-r", "-f", *made], check=True)
        os.sync()

    return cure


def without_inodes(machine: LayeredMachine) -> Cure:
    """There is room for content, but not for another file."""
    made = machine.disks.volume / "many"
    made.mkdir()
    with contextlib.suppress(OSError):
        for number in itertools.count():
            (made / str(number)).touch()
    space = os.statvfs(made)
    assert (space.f_favail, space.f_bavail > 1000) == (0, True)

    def cure() -> None:
        subprocess.run(["rm", "-r", "-f", made], check=True)
        os.sync()

    return cure


def immutable(machine: LayeredMachine) -> Cure:
    subprocess.run(["chattr", "+i", machine.disks.folder], check=True)

    def cure() -> None:
        subprocess.run(["chattr", "-i", machine.disks.folder], check=True)

    return cure


def of_another_system(machine: LayeredMachine) -> Cure:
    folder = str(machine.disks.folder)
    subprocess.run(["setfattr", "-n", "trusted.ephemeroot.system", "-v", "0f", folder], check=True)
    remove = ["setfattr", "-x", "trusted.ephemeroot.system", folder]

    def cure() -> None:
        subprocess.run(remove, check=True)

    return cure


def in_the_way(machine: LayeredMachine) -> Cure:
    folder = machine.disks.folder
    folder.rename(folder.with_name("aside"))
    folder.write_text("a file")

    def cure() -> None:
        folder.unlink()
        folder.with_name("aside").rename(folder)

    return cure


def unbootable(machine: LayeredMachine) -> Cure:
    """The check of the installed root fails: with ``keep`` it boots anyway."""
    with InstalledRoot(machine.disks) as top:
        (top / "sbin/init").chmod(0o644)

    def cure() -> None:
        with InstalledRoot(machine.disks) as top:
            (top / "sbin/init").chmod(0o755)

    return cure


def of_an_old_image(machine: LayeredMachine) -> Cure:
    record = machine.store / ".ephemeroot/generation"
    record.write_text("7")
    return record.unlink


def nothing(machine: LayeredMachine) -> Cure:
    """The kernel command line has a mistake."""
    return lambda: None


CAUSES = {
    "full": full, "without inodes": without_inodes, "immutable": immutable,
    "of another system": of_another_system, "in the way": in_the_way,
    "unbootable": unbootable, "of an old image": of_an_old_image,
    "unknown word": nothing,
}  # fmt: skip
WORDS = {"unknown word": "ephemeroot.nonsense=1"}


@contextmanager
def prepared(base: Path) -> Iterator[LayeredMachine]:
    """The layer before the last has a file that the failing boot declares."""
    with layered_machine(base) as machine:
        machine.persist = [ETC, Copy(path="/etc/diary", store=STORE, source="etc/diary")]
        with InstalledRoot(machine.disks) as top:
            (top / "etc/diary").write_text("of the installer")
        machine.boot()
        machine.boot()
        (machine.root / "etc/mine").write_text("made in the layer")
        (machine.root / "etc/diary").write_text("not copied back yet")
        machine.power_off()
        machine.persist.append(File(path="/etc/mine", store=STORE, source="etc/mine"))
        machine.generation = 2
        yield machine


# Causes that change the folder of the layers come before those that forbid it or leave no room.
TWO = [
    (one, other)
    for one, other in itertools.permutations(CAUSES, 2)
    if one not in ("full", "without inodes", "immutable")
]


@pytest.mark.parametrize(
    "causes",
    [*((one,) for one in proof.sample(list(CAUSES), 2, seed=4)), *proof.sample(TWO, 1, seed=2)],
    ids=" and ".join,
)
def test_a_boot_that_cannot_make_a_layer_writes_to_memory(
    tmp_path: Path, causes: tuple[str, ...]
) -> None:
    """One cause, or two of which each is enough: after one of them is gone the other is left."""
    with prepared(tmp_path) as machine:
        cures = [(CAUSES[cause](machine), cause) for cause in causes]
        while cures:
            before = content(machine)
            words = " ".join(WORDS.get(cause, "") for _, cause in cures)
            for _ in range(2):
                in_memory(machine, words)
                assert content(machine) == before
            cures.pop()[0]()
        assert machine.boot()[0] == 0
        assert status.collect(str(machine.live())).boot.state == "ephemeral"
        assert not (machine.root / "etc/lost").exists()
        assert (machine.root / "etc/installed").exists()
        assert (machine.root / "etc/mine").read_text() == "made in the layer"
        assert (machine.root / "etc/diary").read_text() == "not copied back yet"


def in_memory(machine: LayeredMachine, words: str) -> None:
    """Boot, and write to the root: the layer is in memory, which is reported."""
    codes = machine.boot(words)
    assert codes[0] == IN_MEMORY, machine.report("wipe")
    assert machine.type_of_root() == "overlay"
    assert (machine.root / "etc/installed").read_text() == "by the installer\n"
    (machine.root / "etc/lost").write_text("x")
    (machine.root / "etc/installed").unlink()
    shown = status.collect(str(machine.live()))
    assert shown.boot.state == "in-memory"
    assert any("layer in memory" in line for line in shown.complaints())
    machine.power_off()


def test_the_root_is_not_booted_without_a_layer(tmp_path: Path) -> None:
    with layered_machine(tmp_path) as machine:
        machine.boot()
        machine.power_off()
        machine.settings["type"] = "xfs"
        before = content(machine)
        for policy, code in (("keep", 73), ("reboot", 71), ("poweroff", 72), ("emergency", 73)):
            machine.on_failure = {"wipe": policy}
            assert machine.boot() == [code], policy
            said = str(machine.report("wipe")["problems"])
            assert f"cannot mount the installed root {machine.disks.device} as xfs" in said
        machine.power_off()
        assert content(machine) == before


def test_the_administrator_boots_the_installed_root_by_name(tmp_path: Path) -> None:
    with layered_machine(tmp_path) as machine:
        cure = full(machine)
        assert machine.boot(KEPT)[0] == 0
        assert machine.type_of_root() == "ext4"
        cure()


def test_two_systems_on_one_layer_volume_both_boot(tmp_path: Path) -> None:
    """The first system that made a layer there owns the directory; the other one has its layer in
    memory.
    """
    with (
        two_disks(tmp_path / "one") as (first, layers),
        two_disks(tmp_path / "two") as (second, store),
    ):
        one = LayeredMachine(first, layers, system="01")
        two = LayeredMachine(second, store, layers=layers, system="02")
        for _ in range(2):
            assert one.boot() == [0, 0]
            one.power_off()
            kept = one.disks.old()
            codes = two.boot()
            assert codes[0] == IN_MEMORY
            assert "the history of another system" in two.report("wipe")["result"]
            (two.root / "etc/lost").write_text("x")
            two.power_off()
            assert one.disks.old() == kept
        with InstalledRoot(second) as top:
            assert not (top / "etc/lost").exists()
