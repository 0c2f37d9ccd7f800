"""A full run directory (/run): a boot still reports its work, and continues."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from seeding_machine import SeedingMachine, seeding_machine

pytestmark = pytest.mark.requires_loop

INODES = 24
"""Enough inodes for a boot, see ``test_a_boot_reports_its_work_however_full_run_is``."""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[SeedingMachine]:
    with seeding_machine(tmp_path, "btrfs", "size", kind="directory", users=False) as made:
        made.first_boot()
        made.content()
        made.live()
        made.declared = True
        yield made
        subprocess.run(["umount", "-l", made.run], capture_output=True)


def limit(machine: SeedingMachine, options: str) -> None:
    words = ["-t", "tmpfs", "-o", options, "none"]
    subprocess.run(["mount", *words, machine.run], check=True)


def test_a_boot_reports_its_work_however_full_run_is(
    machine: SeedingMachine, capfd: pytest.CaptureFixture[str]
) -> None:
    """From no inode at all to enough inodes: the report always agrees with the root."""
    outcomes = []
    for inodes in range(1, INODES + 1):
        limit(machine, f"nr_inodes={inodes}")
        before = os.listdir(machine.history)
        capfd.readouterr()
        code = machine.stage("wipe")
        said = capfd.readouterr().err
        wiped = os.listdir(machine.history) != before
        assert "Traceback" not in said
        assert ("wipe: wiped" in said) == wiped, said
        assert ("the root is kept" in said) == (not wiped), said
        assert code in (0, 10)
        machine.mount_root()
        code = machine.stage("persist")
        said = capfd.readouterr().err
        assert "Traceback" not in said
        # Without a directory to mount the volume at, no path persists: that stops the boot.
        assert code in (0, 10, 73)
        assert (code == 73) != os.path.ismount(machine.target / machine.path[1:])
        outcomes.append((wiped, code))
        run = machine.run
        machine.switch_off()
        subprocess.run(["umount", "-l", run], check=True)
    assert outcomes[0] == (False, 73)
    assert outcomes[-1][0] is True
    assert outcomes[-1][1] in (0, 10)
    assert [one for one, _ in outcomes] == sorted(one for one, _ in outcomes)


def test_memory_for_the_wipe_is_reserved_before_it(machine: SeedingMachine) -> None:
    limit(machine, "size=4m,nr_inodes=60")
    machine.attribute = "full_run:Filling"
    assert machine.stage("wipe") in (0, 10)
    record = json.loads((machine.run / "wiped").read_text())
    assert record["/"]["retired"] in machine.old()
    machine.mount_root()
    machine.attribute = ""
    assert machine.stage("persist") in (0, 10)
    assert os.path.ismount(machine.target / machine.path[1:])


def test_a_record_that_cannot_be_written_does_not_hide_the_wipe(
    machine: SeedingMachine, capfd: pytest.CaptureFixture[str]
) -> None:
    limit(machine, "size=4m")
    machine.attribute = "full_run:Freezing"
    assert machine.stage("wipe") == 10
    said = capfd.readouterr().err
    assert len(machine.old()) == 1
    assert "/ was made fresh, but this cannot be recorded" in said
    assert "the root is kept" not in said
    assert "wipe: wiped" in said
    machine.mount_root()
    machine.attribute = ""
    assert machine.stage("persist") == 10
    said = capfd.readouterr().err
    subprocess.run(["chattr", "-i", machine.run], check=True)
    assert "Traceback" not in said
    assert "left no record" in said
    assert os.path.ismount(machine.target / machine.path[1:])
