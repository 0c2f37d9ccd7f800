"""`ephemeroot image`: the lines for the generators, and the text for people."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ephemeroot import cli
from ephemeroot.image import verification
from image_plans import UUID, plan, volume, wipe

pytestmark = pytest.mark.requires_root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A system with an applied plan."""
    folder = tmp_path / "root"
    (folder / "etc/ephemeroot").mkdir(parents=True)
    data = volume(mount_point="/data", name="data", device="/dev/vdb", type="ext4")
    (folder / "etc/ephemeroot/plan.json").write_bytes(plan(data, wipe()).dump())
    return folder


def image(root: Path, into: Path, *words: str) -> int:
    return cli.main(["image", "--root", str(root), "--into", str(into), *words])


def test_prints_lines_for_the_generator(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    into = tmp_path / "into"
    assert image(root, into, "--initqueue") == 0
    captured = capsys.readouterr()
    rows = [line.split("\t") for line in captured.out.splitlines()]
    links = [row for row in rows if row[0] == "link"]
    assert all(os.readlink(into / "tree" / row[2].lstrip("/")) == row[1] for row in links)
    copies = [(Path(row[1]), row[2]) for row in rows if row[0] == "copy"]
    assert len(copies) > 30
    for source, destination in copies:
        assert source == into / "tree" / destination.lstrip("/")
        assert source.is_file()
        assert not source.is_symlink()
    assert [row[1] for row in rows if row[0] == "module"] == ["btrfs", "ext4"]
    hooks = [Path(row[3]) for row in rows if row[:2] == ["hook", "initqueue/finished"]]
    assert [(hook.name, hook.is_file()) for hook in hooks] == [("ephemeroot-wait.sh", True)]
    devices = (into / "tree/usr/lib/ephemeroot/devices").read_text()
    assert f"/dev/disk/by-uuid/{UUID}\n" in devices
    assert "/dev/vdb\n" in devices
    assert {row[0] for row in rows} - {"folder"} == {"copy", "link", "module", "hook"}
    assert "verified in a chroot" in captured.err


def test_an_interruption_while_the_packed_tree_is_entered_ends_the_verb(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        """It arrives in the process that enters the tree, which the terminal alone would
        not reach.
        """
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(verification, "_unshare", interrupt)
    assert image(root, tmp_path / "into") == 130
    assert "Traceback" not in capsys.readouterr().err


def test_removes_the_files_of_an_earlier_run(root: Path, tmp_path: Path) -> None:
    into = tmp_path / "into"
    (into / "tree").mkdir(parents=True)
    (into / "tree/stale").write_text("")
    assert image(root, into) == 0
    assert not (into / "tree/stale").exists()


def test_explains_the_image_to_people(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert image(root, tmp_path / "into", "--explain", "--init", "dracut") == 0
    lines = capsys.readouterr().out.splitlines()
    sums = [line for line in lines if "total: " in line]
    assert sum(int(line.split()[0]) for line in sums) > 3_000_000
    others = ("kernel module", " hook ")
    files = [line for line in lines if not any(w in line for w in others) and line not in sums]
    sizes = [int(line.split()[0]) for line in files]
    assert sizes == sorted(sizes, reverse=True)
    assert files[0].endswith("(interpreter)")
    assert any(line.endswith("plan.json  (plan)") for line in files)
    assert any(line.endswith("(library, for fsck.ext4)") for line in files)
    assert any("/usr/lib/ephemeroot/bundle  (boot code, " in line for line in files)
    assert [line.split()[1] for line in lines if " hook " in line] == ["pre-mount", "pre-pivot"]
    assert len(sums) < 15
    assert not any(line.endswith("()") for line in files)
    assert [line.split()[-1] for line in lines if "kernel module" in line] == ["btrfs", "ext4"]


def test_prints_the_reason_of_an_inert_image(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "etc/ephemeroot/plan.json").write_text("{}")
    assert image(root, tmp_path / "into") == 10
    captured = capsys.readouterr()
    assert "INERT" in captured.err
    assert all(line.startswith(("copy\t", "link\t")) for line in captured.out.splitlines())


def test_reports_that_nothing_is_applied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert image(tmp_path, tmp_path / "into") == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "ephemeroot apply" in captured.err


def test_reports_a_missing_parent_directory(tmp_path: Path) -> None:
    assert image(tmp_path, tmp_path / "no/such/into") == 2
