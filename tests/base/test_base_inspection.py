"""What a base must not contain, because every new root would have it; on real btrfs subvolumes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from boot_tree import write
from btrfs_image import Disk, btrfsutil, fresh_disk
from ephemeroot.backends.btrfs import nested
from ephemeroot.base import inspection

pytestmark = pytest.mark.requires_loop


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    with fresh_disk(tmp_path_factory.mktemp("inspection"), 128) as found:
        yield found


@pytest.fixture
def root(disk: Disk) -> Path:
    path = disk.top / f"root{next(disk.sites)}"
    btrfsutil.create_subvolume(str(path))
    write(path, "etc/os-release", "ID=test\n")
    return path


def inspect(root: Path, *kept: str) -> list[tuple[str, str, str]]:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = inspection.inspect(fd, kept, nested.omitted(fd))
        return [(one.path, one.text, one.hint) for one in found]
    finally:
        os.close(fd)


MARKERS = ("/.autorelabel", "/system-update", "/etc/system-update", "/forcefsck",
           "/forcequotacheck", "/.unconfigured", "/etc/reconfigSys",
           "/var/lib/YaST2/reconfig_system")  # fmt: skip


def test_finds_nothing_in_a_clean_root(root: Path) -> None:
    write(root, "etc/machine-id", "0123456789abcdef0123456789abcdef\n")
    assert inspect(root) == []


@pytest.mark.parametrize("kind", ["file", "directory", "dangling-link"])
@pytest.mark.parametrize("marker", MARKERS)
def test_finds_each_marker_of_any_file_type(root: Path, marker: str, kind: str) -> None:
    path = root / marker.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "file":
        path.touch()
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("/var/cache/nowhere")
    ((where, text, hint),) = inspect(root)
    assert (where, text.startswith(f"{marker} would be in every new root")) == (marker, True)
    assert hint
    assert inspect(root, marker) == []


def test_finds_a_first_boot_that_would_repeat(root: Path) -> None:
    write(root, "etc/machine-id", "uninitialized\n")
    ((where, _, hint),) = inspect(root)
    assert (where, "systemd-machine-id-setup" in hint) == ("/etc/machine-id", True)
    assert inspect(root, "/etc/machine-id") == []


@pytest.mark.parametrize("place", ["opt", "var/lib", "usr", "etc/deep/in", "usr/local"])
def test_finds_each_nested_subvolume_with_content(root: Path, place: str) -> None:
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    btrfsutil.create_subvolume(str(root / place))
    assert inspect(root) == []
    write(root, f"{place}/file", "x")
    ((where, text, hint),) = inspect(root)
    assert where == f"/{place}"
    assert "would be empty in every new root" in text
    assert f"cp -a --reflink=auto /{place}.old /{place}" in hint
    assert inspect(root, f"/{place}") == []
    assert inspect(root, f"/{place.split('/', maxsplit=1)[0]}") == []


@pytest.mark.parametrize("place", [".snapshots", "home", "var/lib/machines", "var/tmp"])
def test_accepts_subvolumes_without_system_files(root: Path, place: str) -> None:
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    btrfsutil.create_subvolume(str(root / place))
    write(root, f"{place}/file", "x")
    assert inspect(root) == []


def test_accepts_a_snapshot_in_the_root(root: Path) -> None:
    btrfsutil.create_snapshot(str(root), str(root / "before"), read_only=True)
    assert inspect(root) == []


SWAP = b"\0" * 4086 + b"SWAPSPACE2" + b"\0" * 4096


@pytest.mark.parametrize(
    ("path", "declaration", "text"),
    [
        ("swapfile", "", ""),
        ("swap.img", "", ""),
        ("data/my swap", "etc/fstab", "/data/my\\040swap none swap sw 0 0\n"),
        ("a/swap", "etc/fstab", "/a/swap swap swap defaults,pri=1 0 0\n"),
        ("b/swap", "etc/systemd/system/b-swap.swap", "[Swap]\nWhat=/b/swap\n"),
    ],
)
def test_finds_each_swap_file(root: Path, path: str, declaration: str, text: str) -> None:
    if declaration:
        write(root, declaration, text)
    assert inspect(root) == []
    write(root, path).write_bytes(SWAP)
    ((where, said, hint),) = inspect(root)
    assert (where, "its extents are shared with the base" in said) == (f"/{path}", True)
    assert f"swapoff '/{path}'" in hint or f"swapoff /{path}" in hint
    assert inspect(root, os.path.dirname(f"/{path}").rstrip("/") or f"/{path}") == []


def test_accepts_a_file_that_only_has_the_name_of_a_swap_file(root: Path) -> None:
    write(root, "swapfile", "notes about swap")
    write(root, "etc/fstab", "/dev/sda2 none swap sw 0 0\nUUID=x none swap sw 0 0\n")
    assert inspect(root) == []


def modules(root: Path, release: str, *names: str) -> None:
    text = "".join(f"updates/dkms/{name}.ko.zst: kernel/a.ko\n" for name in names)
    write(root, f"usr/lib/modules/{release}/modules.dep", text)


def test_finds_modules_that_were_built_on_the_running_root(tmp_path: Path) -> None:
    live, base = tmp_path / "live", tmp_path / "base"
    modules(live, "6.1", "btrfs", "gpu", "snd-odd")
    modules(base, "6.1", "btrfs")
    modules(live, "6.2", "btrfs", "new")
    modules(base, "6.0", "btrfs")
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (live, base)]
    (fault,) = inspection.built_modules(*fds)
    assert "6.1: gpu, snd_odd" in fault.text
    assert "dkms autoinstall -k 6.1" in fault.hint
    modules(base, "6.1", "btrfs", "gpu", "snd_odd")
    assert list(inspection.built_modules(*fds)) == []
