"""`ephemeroot leave` after real boots of a btrfs root: all content is back in the root, nothing
wipes any more, and a power failure at any moment loses nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from btrfs_image import fresh_disk
from checkout import CHECKOUT
from ephemeroot import cli
from ephemeroot.errors import Refused, StoreMissing
from ephemeroot.leave import completion, returning
from ephemeroot.leave.leaving import FAILED, RECORD, Leaving, with_adopted
from ephemeroot.linux import bounds
from ephemeroot.linux.bounds import Bounds
from ephemeroot.plan import applied, stores
from leaving_machine import AFTER, LEFT, MachineInUse, bind, leave

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[MachineInUse]:
    with fresh_disk(tmp_path) as disk:
        machine = MachineInUse(tmp_path, disk.loop, disk.top)
        yield machine
        machine.next_boot()


def content(root: Path) -> dict[str, str]:
    names = ("srv", "var", "etc/hostname", "etc/later", "etc/ephemeroot", "etc/adjtime", "opt")
    found = {}
    for name in names:
        top = root / name
        for path in [top, *top.rglob("*")]:
            if path.is_file() and not path.is_symlink():
                found[str(path.relative_to(root))] = path.read_text()
    return found


def test_restores_everything_and_stops_wiping(
    machine: MachineInUse, capsys: pytest.CaptureFixture[str]
) -> None:
    root = machine.start()
    stored = content(machine.top / "persistent")
    assert leave(root, "--yes") == 0
    out = capsys.readouterr().out
    assert "/persistent/srv to /srv in the root: " in out
    bare = content(machine.bare)
    assert {k: v for k, v in bare.items() if not k.startswith("opt")} == LEFT
    assert not (machine.bare / "var/linked").is_symlink()
    assert (root / "var/linked/c").read_text() == "linked"
    assert not os.path.lexists(machine.bare / "etc/never"), "a link that led nowhere"
    stored.pop("etc/ephemeroot/plan.json")
    assert content(machine.top / "persistent") == stored, "the store is left as it was"
    # A program writes until the machine reboots.
    (root / "srv/until the reboot").write_text("late")
    (root / "var/lib/b").unlink()
    (root / "var/linked/in the root").write_text("ours by now")
    root = machine.reboot_plain()
    finish = machine.finish(root)
    assert finish.changed == 3
    assert content(root) == {k: v for k, v in AFTER.items() if k != "var/lib/b"} | {
        "srv/until the reboot": "late",
        "var/linked/in the root": "ours by now",
    }
    assert not (root / RECORD).exists()
    assert applied.load(root) is None
    assert leave(root, "--yes") == 2, "there is nothing to leave any more"


def test_an_old_image_neither_wipes_nor_binds(machine: MachineInUse) -> None:
    root = machine.start()
    assert leave(root, "--yes") == 0
    machine.next_boot()
    done = machine.stage("wipe")
    assert done.returncode == 10
    assert "an older image does not wipe" in done.stderr
    root = machine.mount_root()
    assert machine.stage("persist").returncode in (0, 10)
    points = subprocess.run(
        ["findmnt", "-rno", "TARGET", "-R", root], capture_output=True, text=True
    )
    assert points.stdout.split() == [str(root)], "nothing is bound"
    assert (root / "srv/deep/odd \n name").read_text() == "data"
    subprocess.run(["mount", "-o", "remount,rw", root], check=True)
    machine.finish(root)
    assert content(root) == AFTER


def test_a_dry_run_changes_nothing(
    machine: MachineInUse, capsys: pytest.CaptureFixture[str]
) -> None:
    root = machine.start()
    before = content(machine.bare), content(machine.top / "persistent")
    assert leave(root, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    announced = [line.strip() for line in lines[lines.index("steps:") + 1 :]]
    assert (content(machine.bare), content(machine.top / "persistent")) == before
    assert leave(root, "--yes") == 0
    done = capsys.readouterr().out.splitlines()
    for line in announced:
        assert any(result.startswith(line) for result in done), line


@pytest.mark.parametrize("after", [0, 1, 2, 5, 9])
def test_an_interruption_at_any_path_leaves_the_data_complete(
    machine: MachineInUse, after: int
) -> None:
    """The power fails after a number of paths; the next boot wipes as usual and has all data."""
    root = machine.start()
    leaving = Leaving(root, machine.plan())
    items = leaving.items()
    assert len(items) == 9
    for item in items[:after]:
        leaving.copy(item)
    subprocess.run(["sync", "-f", machine.top], check=True)
    machine.next_boot()
    root = machine.boot()
    assert content(root) == machine.armed()
    assert not (root / RECORD).exists(), "the record went with the root it was in"
    # A second run completes the work.
    subprocess.run(["mount", "-o", "remount,rw", root], check=True)
    assert leave(root, "--yes") == 0
    root = machine.reboot_plain()
    machine.finish(root)
    assert content(root) == AFTER


def test_content_is_copied_only_once(
    machine: MachineInUse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither content that an interrupted run has copied, nor paths declared inside one another,
    needs room twice.
    """
    root = machine.start()
    (machine.top / "persistent/srv/large").write_bytes(bytes(range(256)) * 4096)
    (machine.top / "persistent/var/lib/inner/large").write_bytes(bytes(range(256)) * 8192)
    subprocess.run(["sync", "-f", machine.top], check=True)
    monkeypatch.setattr("ephemeroot.plan.seeds.share", lambda *_: False)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2_500_000))
    assert leave(root, "--yes") == 1
    leaving = Leaving(root, machine.plan())
    for item in leaving.items():
        if item.path == "/srv":
            leaving.copy(item)
    assert leave(root, "--yes") == 0


@pytest.mark.parametrize("moment", ["record", "switch"])
def test_an_interruption_while_disarming(
    machine: MachineInUse, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = machine.start()
    leaving = Leaving(root, machine.plan())
    for item in leaving.items():
        leaving.copy(item)

    class Cut(Exception):
        pass

    def cut(*_: object) -> None:
        raise Cut

    real = stores.record
    if moment == "record":
        monkeypatch.setattr(stores, "record", cut)
    else:

        def record_and_cut(store: Path, plan: bytes, number: int) -> None:
            real(store, plan, number)
            raise Cut

        monkeypatch.setattr(stores, "record", record_and_cut)
    with pytest.raises(Cut):
        leaving.disarm()
    monkeypatch.undo()
    machine.next_boot()
    if moment == "record":
        # the next boot wipes as usual, and the incomplete root is an old root
        root = machine.boot()
        assert not (root / RECORD).exists()
        assert content(root) == machine.armed()
    else:
        assert machine.stage("wipe").returncode == 10
        root = machine.mount_root()
        assert machine.stage("persist").returncode in (0, 10)
        subprocess.run(["mount", "-o", "remount,rw", root], check=True)
        machine.finish(root)
        assert content(root) == AFTER


def test_completing_an_interrupted_run_records_no_further_generation(
    machine: MachineInUse, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = machine.start()
    generation = machine.plan().generation

    class Cut(Exception):
        pass

    def cut(*_: object, **__: object) -> None:
        raise Cut

    with monkeypatch.context() as patched:
        # the write of the plan, after the stores have the new generation
        patched.setattr(Path, "unlink", cut)
        leaving = Leaving(root, machine.plan())
        for item in leaving.items():
            leaving.copy(item)
        with pytest.raises(Cut):
            leaving.disarm()
    store = root / "persistent"
    assert stores.generation(store) == generation + 1
    assert leave(root, "--yes") == 0
    assert stores.generation(store) == generation + 1


def test_never_overwrites_later_changes_in_the_root(machine: MachineInUse) -> None:
    """For example, the unit did not run in the first boot because the package was removed."""
    root = machine.start()
    assert leave(root, "--yes") == 0
    (root / "srv/deep/odd \n name").write_text("late, in the store")
    root = machine.reboot_plain()
    (root / "srv/deep/odd \n name").write_text("newer, in the root")
    (root / "srv/new").write_text("newer")
    (root / "etc/hostname").write_text("renamed\n")
    finish = machine.finish(root)
    assert "/srv/deep/odd \n name" in finish.kept
    assert (root / "srv/deep/odd \n name").read_text() == "newer, in the root"
    assert (root / "srv/new").read_text() == "newer"
    assert (root / "etc/hostname").read_text() == "renamed\n"


def test_does_not_repeat_a_finish_that_failed(machine: MachineInUse) -> None:
    root = machine.start()
    assert leave(root, "--yes") == 0
    root = machine.reboot_plain()
    marker = machine.top / "persistent/.ephemeroot-store"
    kept = marker.read_text()
    marker.write_text(json.dumps({"version": 1, "id": "another"}))
    with pytest.raises(StoreMissing):
        machine.finish(root)
    marker.write_text(kept)
    assert (root / FAILED).exists()
    assert completion.read(root) is None


def test_a_path_that_cannot_be_restored_keeps_the_machine_armed(
    machine: MachineInUse, capsys: pytest.CaptureFixture[str]
) -> None:
    root = machine.start()
    generation = stores.generation(machine.top / "persistent")
    (machine.top / "persistent/etc/hostname").unlink()
    (machine.top / "persistent/etc/hostname").mkdir()
    assert leave(root, "--yes") == 1
    said = capsys.readouterr()
    assert "cannot disarm the boot" in said.err
    assert "/etc/hostname" in said.err
    assert stores.generation(machine.top / "persistent") == generation
    assert applied.load(root) is not None


def test_refuses_to_leave_with_a_missing_store(machine: MachineInUse) -> None:
    root = machine.start()
    subprocess.run(["umount", "-l", root / "persistent"], check=True)
    with pytest.raises(StoreMissing):
        Leaving(root, machine.plan()).prove()
    assert leave(root, "--yes") == 1


@pytest.mark.parametrize("fstype", ["tmpfs", "overlay"])
def test_refuses_to_leave_a_root_in_memory_or_on_an_overlay(tmp_path: Path, fstype: str) -> None:
    for name in ("root", "lower", "upper", "work"):
        (tmp_path / name).mkdir()
    layers = ",".join(f"{k}dir={tmp_path / k}" for k in ("lower", "upper", "work"))
    options = ["-o", layers] if fstype == "overlay" else []
    scratch = tmp_path / "upper"
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "lower"], check=True)
    if fstype == "overlay":
        subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)
        for name in ("root", "lower", "upper", "work"):
            (tmp_path / name).mkdir()
    assert scratch.exists()
    subprocess.run(["mount", "-t", fstype, *options, "none", tmp_path / "root"], check=True)
    try:
        from ephemeroot.hooks.plan import Plan

        with pytest.raises(Refused, match=r"overlay|tmpfs"):
            Leaving(tmp_path / "root", Plan(wipe=[], persist=[])).prove()
    finally:
        subprocess.run(["umount", tmp_path / "root"], check=True)
        if fstype == "overlay":
            subprocess.run(["umount", tmp_path], check=True)
        subprocess.run(["umount", tmp_path / "lower"], check=True)


def test_restores_adopted_paths_that_were_not_applied(machine: MachineInUse) -> None:
    root = machine.start()
    store = machine.top / "persistent"
    (root / "etc/service").mkdir()
    (store / "etc/service").mkdir()
    (store / "etc/service/conf").write_text("bound")
    (store / "etc/stale").mkdir()
    (store / "etc/stale/conf").write_text("of an earlier time, and not bound")
    (root / "etc/stale").mkdir()
    (root / "etc/stale/conf").write_text("the root's own")
    subprocess.run(["mount", "--bind", store / "etc/service", root / "etc/service"], check=True)
    configured = machine.plan()
    configured.persist += [bind("/etc/service"), bind("/etc/stale")]
    plan = with_adopted(root, machine.plan(), configured)
    leaving = Leaving(root, plan)
    assert [i.path for i in leaving.items()][-1] == "/etc/service"
    for item in leaving.items():
        leaving.copy(item)
    assert leaving.problems == []
    assert (machine.bare / "etc/service/conf").read_text() == "bound"
    assert (machine.bare / "etc/stale/conf").read_text() == "the root's own"


def test_leave_finish_mounts_a_store_that_fstab_lacks(machine: MachineInUse) -> None:
    """Only the initramfs mounted the store ([[volumes]])."""
    root = machine.start()
    assert leave(root, "--yes") == 0
    (root / "srv/late").write_text("late")
    root = machine.reboot_plain()
    assert not (root / "persistent/.ephemeroot-store").exists()
    machine.finish(root)
    assert (root / "srv/late").read_text() == "late"


def test_a_users_path_that_exceeds_its_limits_does_not_stop_others(
    machine: MachineInUse, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Root's paths come first; the user's path is reported, and its incomplete copy is kept for
    inspection.
    """
    root = machine.start()
    os.chown(machine.top / "persistent/srv", 4242, 4242)
    assert leave(root, "--yes") == 0
    for number in range(100):
        (root / f"srv/{number}").touch()
    (root / "var/lib/b").write_text("of the last minute")
    root = machine.reboot_plain()
    monkeypatch.setattr(bounds, "unattended", lambda: Bounds(entries=50))
    seen: list[str] = []
    copy = returning.copy

    def noted(*words: object) -> None:
        seen.append(str(words[4]))
        copy(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(returning, "copy", noted)
    finish = machine.finish(root)
    assert [p for p in finish.problems if p.startswith("/srv: ")] == finish.problems
    assert "more than 50 entries" in finish.problems[0]
    assert (root / "var/lib/b").read_text() == "of the last minute"
    assert seen[-1] == "/srv"
    assert not (root / RECORD).exists()
    assert (root / FAILED).exists()


def test_the_manual_has_the_overall_limits() -> None:
    whole = bounds.unattended_in_all()
    assert whole.bytes_copied == whole.bytes_read
    assert whole.deadline is not None
    minutes = round((whole.deadline - time.monotonic()) / 60)
    folder = CHECKOUT
    for name in ("docs/persistence.md", "man/ephemeroot.8"):
        text = " ".join((folder / name).read_text().split())
        for number in (
            f"{(whole.bytes_copied or 0) >> 30} GiB copied",
            f"{(whole.bytes_read or 0) >> 30} GiB read to compare",
            f"{whole.entries:,} names",
            f"{minutes} minutes",
        ):
            assert number in text, name


@pytest.mark.parametrize("first", ["srv", "var/lib"])
def test_a_user_who_exceeds_a_share_delays_neither_root_nor_other_users(
    machine: MachineInUse, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """Of two users, one has more content than the overall limit, the other little."""
    root = machine.start()
    other = {"srv": "var/lib", "var/lib": "srv"}[first]
    for number, path in enumerate((first, other)):
        os.chown(machine.top / "persistent" / path, 4242 + number, 4242 + number)
    assert leave(root, "--yes") == 0
    for number in range(300):
        (root / first / f"{number}").touch()
    (root / other / "late").write_text("of the last minute")
    (root / "etc/hostname").write_text("renamed\n")
    root = machine.reboot_plain()
    monkeypatch.setattr(bounds, "unattended_in_all", lambda: Bounds(entries=240))
    finish = machine.finish(root)
    assert finish.problems
    assert all(problem.startswith(f"/{first}") for problem in finish.problems)
    assert "entries" in finish.problems[0]
    assert (root / other / "late").read_text() == "of the last minute"
    assert (root / "etc/hostname").read_text() == "renamed\n"


def test_finish_exits_with_partly_done(
    machine: MachineInUse, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = machine.start()
    assert leave(root, "--yes") == 0
    (root / "srv/more").touch()
    root = machine.reboot_plain()
    monkeypatch.setattr(bounds, "unattended", lambda: Bounds(entries=1))
    assert cli.main(["leave", "--finish", "--root", str(root)]) == 10
    assert "not copied back: /srv: " in capsys.readouterr().err
