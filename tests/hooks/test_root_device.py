"""Names of the root's device: those of LVM and the device mapper are symlinks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from btrfs_image import fresh_disk
from staged_machine import Machine

pytestmark = pytest.mark.requires_loop


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with fresh_disk(tmp_path) as disk:
        machine = Machine(tmp_path, disk.loop, disk.top)
        (disk.top / "root/stray").write_text("forget me")
        yield machine
        machine.next_boot()


@pytest.fixture
def name(machine: Machine, tmp_path: Path) -> str:
    """A name like /dev/vg/root and /dev/mapper/vg-root: a link to the device itself."""
    link = tmp_path / "vg" / "root with blank"
    link.parent.mkdir()
    link.symlink_to(machine.loop)
    return str(link)


def test_finds_the_device_by_a_link_on_the_kernel_command_line(machine: Machine, name: str) -> None:
    assert not (machine.boot(f'root="{name}"') / "stray").exists()
    assert len(machine.old()) == 1


def test_two_names_of_one_device_agree(machine: Machine, name: str) -> None:
    machine.device = name
    assert not (machine.boot() / "stray").exists()
    assert len(machine.old()) == 1


def test_reports_a_link_that_leads_nowhere(machine: Machine, name: str) -> None:
    machine.device = f"{name}-gone"
    machine.assert_kept(machine.stage("wipe"), "is missing")
