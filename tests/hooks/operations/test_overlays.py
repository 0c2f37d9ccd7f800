"""Directories with ``method = "overlay"``: the store's changes over the base's directory."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from boot import STORE, Boot, directory, overlay, parent
from btrfs_image import fresh_disk

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Boot]:
    """The store is on btrfs: on older kernels a tmpfs lacks the attributes that overlayfs needs."""
    with fresh_disk(tmp_path) as disk:
        boot = Boot(tmp_path)
        marker = (boot.store / ".ephemeroot-store").read_text()
        subprocess.run(["umount", boot.store], check=True)
        subprocess.run(
            ["mount", "-t", "btrfs", "-o", "nosuid,nodev", disk.loop, boot.store], check=True
        )
        (boot.store / ".ephemeroot-store").write_text(marker)
        boot.fstype = "btrfs"
        yield boot
        boot.unmount()


def base(boot: Boot, **files: str) -> Path:
    folder = boot.root("/opt/app")
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


def test_changes_persist_over_a_base_that_changes(boot: Boot) -> None:
    app = base(boot, kept="1", edited="1", removed="1")
    boot.persist(parent("/opt"), overlay("/opt/app"))
    assert boot.results()[-1] == "mounted"
    (app / "edited").write_text("mine")
    (app / "removed").unlink()
    (app / "folder").mkdir()
    (app / "folder/new").write_text("mine")
    stored = boot.root(STORE) / "opt/app"
    assert sorted(p.name for p in stored.iterdir()) == ["edited", "folder", "removed"]
    boot.next_boot()
    app = base(boot, kept="2", edited="2", removed="2", more="2")
    boot.persist(parent("/opt"), overlay("/opt/app"))
    there = {p.name: p.read_text() for p in app.iterdir() if p.is_file()}
    assert there == {"kept": "2", "edited": "mine", "more": "2"}
    assert (app / "folder/new").read_text() == "mine"


def test_an_overlay_seeds_nothing(boot: Boot) -> None:
    app = base(boot, default="1")
    boot.persist(parent("/opt"), overlay("/opt/app"))
    assert (app / "default").read_text() == "1"
    assert list((boot.root(STORE) / "opt/app").iterdir()) == []


@pytest.mark.parametrize("inner", ["/opt/app/data", "/opt/app/between/data"])
@pytest.mark.parametrize("method", ["bind", "symlink"])
def test_an_empty_directory_inside_hides_the_bases(boot: Boot, inner: str, method: str) -> None:
    operations = (
        parent("/opt"), overlay("/opt/app"), directory(inner, method=method, initial="empty"),
    )  # fmt: skip
    for number in range(3):
        app = base(boot)
        place = boot.root(inner)
        place.mkdir(parents=True)
        place.parent.chmod(0o711)
        (place / "default").write_text("of the base")
        (place.parent / "beside").write_text("of the base")
        boot.persist(*operations)
        assert sorted(p.name for p in place.iterdir()) == [f"of {n}" for n in range(number)]
        (place / f"of {number}").write_text("")
        assert (place.parent / "beside").read_text() == "of the base"
        if place.parent != app:
            assert stat.S_IMODE(place.parent.stat().st_mode) == 0o711
        boot.next_boot()


def test_options_that_bind_the_overlay_to_one_base_are_off(boot: Boot) -> None:
    base(boot)
    boot.persist(parent("/opt"), overlay("/opt/app", options=["noexec"]))
    mounts = json.loads(
        subprocess.run(
            ["findmnt", "-J", "-o", "TARGET,FSTYPE,OPTIONS", boot.root("/opt/app")],
            capture_output=True,
            check=True,
        ).stdout
    )
    (mount,) = mounts["filesystems"]
    assert mount["fstype"] == "overlay"
    options = mount["options"].split(",")
    # The kernel lists only options that differ from their default.
    defaults = {
        name: Path(f"/sys/module/overlay/parameters/{name}").read_text().strip()
        for name in ("index", "metacopy", "redirect_dir")
    }
    for name, default in defaults.items():
        assert f"{name}=on" not in options
        assert default == "N" or f"{name}=off" in options
    assert "noexec" in options


def test_keeps_the_mount_options_of_the_store(boot: Boot) -> None:
    app = base(boot)
    boot.persist(parent("/opt"), overlay("/opt/app"))
    flags = os.statvfs(app).f_flag
    assert flags & os.ST_NOSUID
    assert flags & os.ST_NODEV
    assert not flags & os.ST_NOEXEC


def test_a_new_upper_directory_has_the_attributes_of_the_base_unless_declared(boot: Boot) -> None:
    for name in ("a", "b"):
        path = boot.root(f"/{name}")
        path.mkdir()
        os.chown(path, 5, 6)
        path.chmod(0o2750)
    boot.persist(overlay("/a"), overlay("/b", user=7, mode=0o700), overlay("/c"))
    found = {}
    for name in ("a", "b", "c"):
        status = boot.root(f"/{name}").stat()
        found[name] = (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
    assert found == {"a": (5, 6, 0o2750), "b": (7, 6, 0o700), "c": (0, 0, 0o755)}


def test_a_second_run_changes_nothing(boot: Boot) -> None:
    base(boot)
    boot.persist(parent("/opt"), overlay("/opt/app"))
    boot.next_boot(wiped=False)
    boot.persist(parent("/opt"), overlay("/opt/app"))
    assert boot.results()[-1] == "already mounted"


@pytest.mark.parametrize(
    ("what", "shape"),
    [("upper", "link"), ("upper", "file"), ("work", "link"), ("work", "file"), ("work", "users")],
)
def test_reports_wrong_file_types(boot: Boot, what: str, shape: str) -> None:
    victim = boot.root("/victim")
    victim.mkdir()
    (victim / "file").write_text("")
    base(boot)
    boot.persist(parent("/opt"), overlay("/opt/app"))
    (work,) = (boot.root(STORE) / "opt").glob(".ephemeroot-work-*")
    boot.next_boot(wiped=False)
    subprocess.run(["umount", boot.root("/opt/app")], check=True)
    place = work if what == "work" else work.parent / "app"
    subprocess.run(["rm", "-r", place], check=True)
    if shape == "link":
        place.symlink_to(victim)
    elif shape == "file":
        place.write_text("")
    else:
        place.mkdir()
        os.chown(place, 1000, 1000)
    boot.persist(parent("/opt"), overlay("/opt/app"), parent("/after"))
    assert boot.results()[-2].startswith("failed")
    assert not boot.root("/opt/app").is_mount()
    assert boot.root("/after").is_dir()
    assert [p.name for p in victim.iterdir()] == ["file"]
