"""What `ephemeroot apply` announces before it changes anything: changed and removed paths, the
content that the next boot has to seed, and the paths that it could not seed.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from btrfs_image import btrfsutil, fresh_disk
from ephemeroot import cli
from ephemeroot.hooks import plan as plans
from ephemeroot.plan import applied, seeds
from machine_tree import DEVICE, MAIN, ROOT, SOUND, STORE, VOLUME, MachineTree

MEMORY = """\
[root]
wiper = "tmpfs"
[[volumes]]
mount-point = "/usr"
device = "UUID=3c2a1b0e-0000-4000-8000-000000000001"
type = "btrfs"
options = ["subvol=usr", "ro"]
"""


@pytest.fixture
def machine(tmp_path: Path) -> MachineTree:
    return MachineTree(tmp_path)


def apply(machine: MachineTree, *words: str) -> int:
    return cli.main(["apply", "--no-images", "--root", str(machine.path), *words])


def test_reports_paths_that_no_longer_persist(
    machine: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    assert apply(machine, "--yes") == 0
    capsys.readouterr()
    machine.write(MAIN, SOUND.replace('"/var/log"', '"/srv"'))
    assert apply(machine, "--dry-run", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["no-longer-persisted"] == ["/var/log"]
    assert apply(machine, "--yes") == 0
    said = capsys.readouterr().err
    assert "/var/log no longer persists" in said
    assert "/persistent/var/log" in said
    assert apply(machine, "--yes") == 0
    assert "no longer" not in capsys.readouterr().err


def test_counts_the_entries_to_seed(
    machine: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.write("var/log/a", "x" * 5000)
    machine.write("var/log/deep/b", "y" * 3000)
    (machine.path / "var/log/deep/same").hardlink_to(machine.path / "var/log/deep/b")
    with (machine.path / "var/log/holes").open("wb") as file:
        file.truncate(1 << 30)
    assert apply(machine, "--dry-run", "--json") == 0
    (seed,) = [s for s in json.loads(capsys.readouterr().out)["seeds"] if s["path"] == "/var/log"]
    assert seed == {
        "path": "/var/log", "store": "/persistent", "bytes": 8000, "shared": False, "refusal": None,
    }  # fmt: skip
    assert apply(machine, "--yes") == 0
    assert "/var/log: the next boot seeds 7.8 KiB into /persistent\n" in capsys.readouterr().out
    (machine.path / "persistent/var/log").mkdir(parents=True)
    assert apply(machine, "--yes") == 0
    assert "/var/log: " not in capsys.readouterr().out, "the store has it by now"


def test_refuses_more_than_a_boot_may_copy(
    machine: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.write(MAIN, f'seed-limit = "1K"\n{SOUND}')
    machine.write("var/log/a", "x" * 5000)
    assert apply(machine, "--yes") == 1
    said = capsys.readouterr().err
    assert "/var/log: has 4.9 KiB, and a boot copies at most 1.0 KiB (seed-limit)" in said
    assert "ephemeroot adopt /var/log" in said
    assert not (machine.path / "etc/ephemeroot/plan.json").exists()
    machine.write(MAIN, f'seed-limit = "1K"\n{ROOT}{VOLUME}' + STORE.replace(
        '"/var/log"', '{ directory = "/var/log", initial = "empty" }'))  # fmt: skip
    assert apply(machine, "--yes") == 0


def test_a_root_in_memory_cannot_be_a_source_for_seeding(
    machine: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.write(MAIN, MEMORY + VOLUME + STORE.replace('"/var/log"', '"/var/log", "/srv/a b"'))
    machine.write("var/log/a", "x")
    machine.write("srv/a b/c", "x")
    (machine.path / "persistent/etc").mkdir()
    (machine.path / "persistent/etc/machine-id").write_text("")
    assert apply(machine, "--yes") == 1
    said = capsys.readouterr().err
    assert "is lost at shutdown" in said
    assert "run: ephemeroot adopt '/srv/a b' /var/log (" in said
    for name in ("var/log", "srv/a b"):
        (machine.path / "persistent" / name).mkdir(parents=True)
    assert apply(machine, "--yes") == 0


def test_warns_of_a_directory_that_the_store_has_only_as_a_parent(
    machine: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    """The boot finds the directory in the store, seeds nothing, and binds it over the content of
    the root.
    """
    machine.write("var/log/a", "x")
    machine.write("persistent/var/log/a", "x")
    machine.write("var/beside", "x")
    assert apply(machine, "--yes") == 0
    machine.write(MAIN, SOUND.replace('"/var/log"', '"/var/log", "/var"'))
    capsys.readouterr()
    assert apply(machine, "--yes") == 1
    said = capsys.readouterr().err
    assert "/var: the store has it only as the parent of other declared paths" in said
    assert "run: ephemeroot adopt /var (" in said
    assert cli.main(["adopt", "--root", str(machine.path), "/var"]) == 0
    assert apply(machine, "--yes") == 0
    assert (machine.path / "persistent/var/beside").read_text() == "x"


def test_compares_with_the_plan_of_the_running_boot(
    machine: MachineTree, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The second `apply` in one boot still compares with the plan that was booted, not with the
    first `apply`.
    """
    run = tmp_path / "run"
    run.mkdir()
    monkeypatch.setattr(applied, "RUN", str(run))
    assert applied.booted() is None
    plan = machine.plan()
    (run / plans.FOLLOWED).write_bytes(plan.dump())
    found = applied.booted()
    assert found is not None
    assert found.dump() == plan.dump()
    assert found.declared() == {
        "/etc/ephemeroot": "/persistent",
        "/etc/machine-id": "/persistent",
        "/var/log": "/persistent",
    }
    (run / plans.FOLLOWED).write_bytes(b"{")
    assert applied.booted() is None


def test_a_boot_records_its_plan(tmp_path: Path, private_mounts: None) -> None:
    from boot import Boot, directory

    boot = Boot(tmp_path)
    try:
        boot.persist(directory("/srv"))
        plan = plans.load(str(boot.run / plans.FOLLOWED))
        assert [o.describe() for o in plan.persist if "/srv" in o.describe()]
    finally:
        boot.unmount()


@pytest.mark.requires_loop
@pytest.mark.usefixtures("private_mounts")
class TestOnOneBtrfs:
    @pytest.fixture
    def machine(self, tmp_path: Path) -> Iterator[MachineTree]:
        with fresh_disk(tmp_path) as disk:
            for name in ("root", "persistent"):
                btrfsutil.create_subvolume(str(disk.top / name))
            root = tmp_path / "machine"
            root.mkdir()
            for name, where in (("root", root), ("persistent", root / "persistent")):
                where.mkdir(exist_ok=True)
                subprocess.run(["mount", "-o", f"subvol={name}", disk.loop, where], check=True)
            yield MachineTree(root)
            subprocess.run(["umount", "-R", root], check=True)

    def test_does_not_warn_of_a_store_without_a_marker(
        self, machine: MachineTree, capsys: pytest.CaptureFixture[str]
    ) -> None:
        machine.write(MAIN, SOUND.replace(DEVICE, "LABEL=golden"))
        (machine.path / "persistent/.ephemeroot-store").unlink()
        assert apply(machine, "--yes") == 0
        assert "marker yet" not in capsys.readouterr().err
        assert (machine.path / "persistent/.ephemeroot-store").exists()

    def test_large_content_that_can_be_shared_is_accepted(
        self, machine: MachineTree, capsys: pytest.CaptureFixture[str]
    ) -> None:
        machine.write(MAIN, f'seed-limit = "1K"\n{SOUND}')
        machine.write("var/log/a", "x" * 50000)
        assert apply(machine, "--yes") == 0
        said = capsys.readouterr().out
        assert "seeds 48.8 KiB into /persistent, shared with the root" in said

    def test_does_not_count_mounts_below_a_path(self, machine: MachineTree) -> None:
        machine.write("var/log/a", "x" * 5000)
        below = machine.path / "var/log/elsewhere"
        below.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "none", below], check=True)
        (below / "b").write_text("y" * 5000)
        (seed,) = [s for s in seeds.foresee(machine.plan(), machine.path) if s.path == "/var/log"]
        assert seed.size == 5000
        assert seed.shared
