"""Every known way in which the shell recipe loses data, or stops wiping.

Each scenario runs twice on a new filesystem: the recipe (bench/recipe.sh) must fail it, or the
scenario shows nothing, and our wiper must pass it.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from btrfs_image import DAY, Disk, Site, btrfsutil, fresh_disk, mounted, subvolume_id
from checkout import CHECKOUT
from ephemeroot.errors import Refused

pytestmark = [
    pytest.mark.requires_loop,
    pytest.mark.requires_program("btrfs"),
    pytest.mark.usefixtures("private_mounts"),
]

RECIPE = CHECKOUT / "bench" / "recipe.sh"
NOW = time.time()


class Machine:
    """A machine whose root is ``root`` on a disk that also has the data of others."""

    def __init__(self, disk: Disk, runner: str) -> None:
        self.site = Site(disk, "").with_root("this boot")
        self.site.settings["keep-last"] = 0
        self.runner = runner
        data = disk.top / "data"
        btrfsutil.create_subvolume(str(data))
        (data / "file").write_text("precious")

    @property
    def is_recipe(self) -> bool:
        return self.runner == "recipe"

    def boot(self, now: float = NOW, *, synchronised: bool = True) -> None:
        """Wipe. The recipe knows only the machine's clock."""
        if not self.is_recipe:
            assert self.site.rotate(now, synchronised=synchronised).fresh
            return
        command = [str(RECIPE), self.site.disk.loop, str(self.site.disk.private / "recipe")]
        subprocess.run(command, check=False, capture_output=True)

    def old_root(self, name: str, *, age: float = 0) -> Path:
        """An old root whose content was last changed *age* days ago."""
        self.site.retire(name)
        path = self.site.old_roots / name
        (path / "file").write_text(name)
        self.touch(path, age)
        return path

    @staticmethod
    def touch(path: Path, age: float) -> None:
        then = NOW - age * DAY
        os.utime(path, (then, then), follow_symlinks=False)

    def has_data(self) -> bool:
        return (self.site.disk.top / "data/file").exists()

    def is_fresh(self) -> bool:
        return self.site.root.exists() and not (self.site.root / "file").exists()

    def copies(self, content: str) -> int:
        """The number of old roots in which the file has this *content*."""
        found = self.site.old_roots.glob("*/file") if self.site.old_roots.exists() else []
        return sum(path.read_text() == content for path in found)

    def verdict(self, good: bool) -> None:
        assert good != self.is_recipe


@pytest.fixture(params=["recipe", "ephemeroot"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    with fresh_disk(tmp_path, 128) as disk:
        yield Machine(disk, request.param)


def test_a_plain_old_directory_in_old_roots(machine: Machine) -> None:
    """For a plain directory, ``btrfs subvolume list -o`` lists the subvolumes of the whole top
    level.
    """
    machine.site.old_roots.mkdir()
    (machine.site.old_roots / "notes").mkdir()
    machine.touch(machine.site.old_roots / "notes", 31.5)
    machine.boot()
    machine.verdict(machine.has_data())


def test_old_old_roots_and_no_root(machine: Machine) -> None:
    """``find -maxdepth 1`` finds the directory itself, and then everything is deleted."""
    btrfsutil.delete_subvolume(str(machine.site.root))
    machine.site.old_roots.mkdir()
    machine.touch(machine.site.old_roots, 31.5)
    machine.boot()
    machine.verdict(machine.has_data())


@pytest.mark.parametrize("days", [40, 20000], ids=["40 days of uptime", "no clock at that boot"])
def test_a_root_whose_date_is_old_when_it_is_retired(machine: Machine, days: int) -> None:
    """The recipe takes its age from its content, so it is deleted the moment it is retired."""
    machine.touch(machine.site.root, days)
    machine.boot()
    assert machine.is_fresh()
    machine.verdict(machine.copies("this boot") == 1)


@pytest.mark.parametrize("days", [365, 73 * 365], ids=["a year ahead", "2099"])
def test_a_clock_that_is_ahead(machine: Machine, days: int) -> None:
    """Roots retired by the right clock look old.

    The recipe uses this machine's clock, so for it everything else is older by the same amount.
    """
    shift = days if machine.is_recipe else 0
    names = [machine.site.boot(NOW - n * DAY).now for n in (3, 2, 1)]
    for number, then in enumerate(names):
        name = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime(then))
        machine.old_root(name, age=3 - number + shift)
    for _ in range(2):
        machine.boot(NOW + (days - shift) * DAY, synchronised=False)
    machine.verdict(len(list(machine.site.old_roots.glob("*/file"))) >= 4)


def test_equal_timestamps_over_three_boots(machine: Machine) -> None:
    """``mv`` moves the second root *into* the first; the third and all later ones are
    not moved.
    """
    for number in range(3):
        (machine.site.root / "file").write_text(f"boot {number}")
        machine.touch(machine.site.root, 0)
        machine.boot(NOW)
        if not machine.is_recipe:
            machine.site.live()
    machine.verdict(machine.is_fresh() and machine.copies("boot 2") == 1)


def test_a_read_only_root(machine: Machine) -> None:
    btrfsutil.set_subvolume_read_only(str(machine.site.root), True)
    machine.boot()
    machine.verdict(machine.is_fresh())


def test_a_read_only_old_root_with_nested_subvolumes(machine: Machine) -> None:
    machine.old_root("2020-02-01T00-00-00Z")
    old = machine.old_root("2020-01-01T00-00-00Z", age=31.5)
    btrfsutil.create_subvolume(str(old / "nested"))
    machine.touch(old, 31.5)
    btrfsutil.set_subvolume_read_only(str(old), True)
    machine.boot()
    machine.verdict(not old.exists())


def test_another_default_subvolume(machine: Machine) -> None:
    """A mount without ``subvolid=5`` shows the default subvolume, and the root is never found."""
    btrfsutil.set_default_subvolume(str(machine.site.disk.top / "data"))
    machine.boot()
    btrfsutil.set_default_subvolume(str(machine.site.disk.top), 5)
    machine.verdict(machine.is_fresh())


def test_a_nested_subvolume_with_a_newline_in_its_name(machine: Machine) -> None:
    old = machine.old_root("2020-01-01T00-00-00Z")
    btrfsutil.create_subvolume(str(old / "new\nline"))
    machine.touch(old, 31.5)
    machine.boot()
    machine.verdict(not old.exists())


def test_an_old_symlink_in_old_roots(machine: Machine) -> None:
    """``btrfs subvolume list -o`` follows it."""
    machine.site.old_roots.mkdir()
    link = machine.site.old_roots / "latest"
    link.symlink_to(".")
    machine.touch(link, 31.5)
    machine.boot()
    machine.verdict(machine.has_data())


def test_an_old_root_that_is_mounted(machine: Machine, tmp_path: Path) -> None:
    """A mounted subvolume can be deleted; its users then see it empty."""
    old = machine.old_root("2020-01-01T00-00-00Z", age=31.5)
    with mounted(machine.site.disk.loop, tmp_path / "m", f"subvolid={subvolume_id(old)}") as m:
        machine.boot()
        machine.verdict((m / "file").exists())


def test_the_root_mounted_by_its_id(machine: Machine, tmp_path: Path) -> None:
    """It is moved away from under running programs."""
    before = subvolume_id(machine.site.root)
    with mounted(machine.site.disk.loop, tmp_path / "m", f"subvolid={before}"):
        if machine.is_recipe:
            machine.boot()
        else:
            with pytest.raises(Refused, match="mounted"):
                machine.boot()
        machine.verdict(subvolume_id(machine.site.root) == before)
