"""Two systems on one disk: neither adds to the other's old roots, nor prunes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.disk import Btrfs, Disk, Subvolume
from vm.ephemeral import CONFIGURATION, UUID, Ephemeral, make
from vm.layer import Content
from vm.machine import Machine
from vm.system import System

DiskFactory = Callable[..., Disk]

FIRST, SECOND = "root", "second"


def configuration(root: str, old_roots: str) -> str:
    """A short retention for several boots a day: roots older than 0 days are pruned."""
    text = CONFIGURATION.replace('base = "root-base"', f'base = "{root}-base"\nkeep-days = 0\n'
                                 f'keep-last = 1\nold-roots = "{old_roots}"')  # fmt: skip
    return text.replace("subvol=persistent", f"subvol={root}-persistent")


@dataclass
class Installed:
    """One of the two systems, and the means to boot it."""

    bench: Bench
    boot: Boot
    root: str
    name: str

    def up(self) -> Machine:
        machine = self.bench.up(self.boot, self.name)
        assert machine.settle() == "running", machine.failed_units()
        return machine

    def live(self, number: int) -> None:
        """Boot, leave a trace in the root, and power off."""
        machine = self.up()
        assert machine.run("findmnt -no FSROOT /").out.strip() == f"/{self.root}"
        machine.run(f"echo {self.root} {number} > /etc/trace")
        machine.poweroff()


def installed(
    bench: Bench,
    cache: Cache,
    image: System,
    package: Path,
    disk: DiskFactory,
    name: str,
    places: dict[str, str],
) -> tuple[Installed, Installed]:
    """The two systems, with their old roots in those *places*."""
    made: dict[str, Ephemeral] = {}
    for root, place in places.items():
        words = f"root=UUID={UUID} rootflags=subvol={root} ro\n"
        made[root] = make(cache, image, package, configuration(root, place),
                          others={"etc/kernel/cmdline": words})  # fmt: skip
    subvolumes: list[Subvolume] = []
    for root, machine in made.items():
        own: dict[str, Content] = {"etc/fstab": f"/dev/vda / btrfs subvol={root} 0 0\n"}
        subvolumes += [
            Subvolume(f"{root}-base", tree=root == FIRST, files=own)
            if root == FIRST
            else Subvolume(f"{root}-base", snapshot_of=f"{FIRST}-base",
                           files={**own, **_own(machine)}),
            Subvolume(root, snapshot_of=f"{root}-base"),
            Subvolume(f"{root}-persistent", files=machine.store),
        ]  # fmt: skip
    disks = (disk(Btrfs(tuple(subvolumes), uuid=UUID, size="3G"), made[FIRST].system),)
    found = [
        Installed(bench, Boot(machine.system, machine.initrd(cache), disks,
                         root=("root=/dev/vda", f"rootflags=subvol={root}", "ro")), root, name)
        for root, machine in made.items()
    ]  # fmt: skip
    return found[0], found[1]


def _own(machine: Ephemeral) -> dict[str, Content]:
    """The files in which the second system differs from the first: its configuration and
    its plan.
    """
    found: dict[str, Content] = {}
    for layer in machine.system.layers:
        for path in sorted((layer / "etc/ephemeroot").rglob("*")):
            if path.is_file():
                found[str(path.relative_to(layer))] = path.read_bytes()
    return found


def old(disk: Disk, place: str) -> dict[str, str]:
    """The old roots in that directory, each with its trace."""
    with disk.mounted() as top:
        return {path.name: (path / "etc/trace").read_text().strip()
                for path in (top / place).iterdir() if (path / "etc/trace").exists()}  # fmt: skip


@pytest.mark.proof
def test_keeps_the_root_if_the_old_roots_belong_to_another_system(
    bench: Bench, cache: Cache, image: System, package: Path, disk: DiskFactory, name: str
) -> None:
    """Only a boot shows the units of two images on one disk, and the service that prunes."""
    places = {FIRST: "old_roots", SECOND: "old_roots"}
    first, second = installed(bench, cache, image, package, disk, name, places)
    first.live(1)
    first.live(2)
    (device,) = first.boot.disks
    before = old(device, "old_roots")
    assert "root 1" in before.values()
    machine = second.up()
    assert "is the history of another system" in machine.journal()
    assert "is the history of another system" in machine.console.read_text(errors="replace")
    assert machine.run("systemctl start ephemeroot-prune", check=False).rc in (0, 1)
    machine.poweroff()
    assert old(device, "old_roots") == before


@pytest.mark.proof
def test_five_boots_of_each_system_leave_the_others_old_roots_alone(
    bench: Bench, cache: Cache, image: System, package: Path, disk: DiskFactory, name: str
) -> None:
    """Only a boot shows two systems that alternate on one disk, each with its own pruning."""
    places = {FIRST: "old_roots", SECOND: f"{SECOND}-old_roots"}
    pair = installed(bench, cache, image, package, disk, name, places)
    (device,) = pair[0].boot.disks
    for number in range(5):
        for one, other in (pair, pair[::-1]):
            before = old(device, places[other.root]) if number else {}
            one.live(number)
            if number:
                assert old(device, places[other.root]) == before
            traces = set(old(device, places[one.root]).values())
            assert all(trace.startswith(f"{one.root} ") for trace in traces), traces
            if number > 1:
                assert f"{one.root} {number - 1}" in traces
