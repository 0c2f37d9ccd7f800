"""For any fault of the root, the base or the old roots, the wipe is refused, with a hint, and
nothing on the disk changes. After the repair, the wipe succeeds.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from btrfs_image import (
    Disk,
    Site,
    btrfsutil,
    loop_device,
    mounted,
    refused,
    subvolume_id,
)

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]

Fault = Callable[[Site, Path], AbstractContextManager[dict[str, object] | None]]
"""Makes a fault, and repairs it at its end; returns other attributes of the ``Boot``."""


@contextmanager
def default_subvolume(site: Site, _: Path) -> Iterator[None]:
    btrfsutil.set_default_subvolume(str(site.root))
    yield
    btrfsutil.set_default_subvolume(str(site.disk.top), 5)


@contextmanager
def plain_directory(site: Site, _: Path) -> Iterator[None]:
    site.root.rename(site.path / "real")
    site.root.mkdir()
    (site.root / "file").write_text("installed here")
    yield
    (site.root / "file").unlink()
    site.root.rmdir()
    (site.path / "real").rename(site.root)


@contextmanager
def symbolic_link(site: Site, _: Path) -> Iterator[None]:
    site.root.rename(site.path / "real")
    site.root.symlink_to("real")
    yield
    site.root.unlink()
    (site.path / "real").rename(site.root)


@contextmanager
def missing_base(site: Site, _: Path) -> Iterator[None]:
    site.settings["base"] = f"{site.name}/base"
    yield
    site.with_base()


@contextmanager
def base_without_subvolume(site: Site, _: Path) -> Iterator[None]:
    site.settings["base"] = f"{site.name}/base"
    (site.path / "base").mkdir()
    yield
    (site.path / "base").rmdir()
    site.with_base()


def mounted_with(option: str) -> Fault:
    @contextmanager
    def fault(site: Site, folder: Path) -> Iterator[None]:
        value = site.subvolume if option == "subvol" else str(subvolume_id(site.root))
        with mounted(site.disk.loop, folder / "m", f"{option}={value}"):
            yield

    return fault


@contextmanager
def mounted_in_another_namespace(site: Site, folder: Path) -> Iterator[None]:
    where = folder / "m"
    where.mkdir()
    script = 'mount -t btrfs -o "$1" "$2" "$3" && echo mounted && read -r _'
    options = f"subvol={site.subvolume}"
    command = ["unshare", "-m", "sh", "-c", script, "sh", options, site.disk.loop, str(where)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "mounted\n"
        yield
        other.communicate("\n")


@contextmanager
def something_of_it_bound_elsewhere(site: Site, folder: Path) -> Iterator[None]:
    (site.root / "srv").mkdir()
    (folder / "b").mkdir()
    subprocess.run(["mount", "--bind", site.root / "srv", folder / "b"], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder / "b"], check=True)


@contextmanager
def something_mounted_in_it(site: Site, _: Path) -> Iterator[None]:
    (site.root / "srv").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", site.root / "srv"], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", site.root / "srv"], check=True)


@contextmanager
def old_roots_that_are_a_file(site: Site, _: Path) -> Iterator[None]:
    site.old_roots.write_text("")
    yield
    site.old_roots.unlink()


@contextmanager
def old_roots_that_are_a_link(site: Site, _: Path) -> Iterator[None]:
    (site.path / "elsewhere").mkdir()
    site.old_roots.symlink_to("elsewhere")
    yield
    site.old_roots.unlink()


@contextmanager
def old_roots_on_another_subvolume(site: Site, _: Path) -> Iterator[None]:
    btrfsutil.create_subvolume(str(site.path / "data"))
    (site.path / "data/old").mkdir()
    with setting("old-roots", "data/old")(site, _):
        yield


@contextmanager
def read_only_old_roots(site: Site, _: Path) -> Iterator[None]:
    btrfsutil.create_subvolume(str(site.old_roots))
    btrfsutil.set_subvolume_read_only(str(site.old_roots), True)
    yield
    btrfsutil.set_subvolume_read_only(str(site.old_roots), False)


def setting(key: str, value: str) -> Fault:
    @contextmanager
    def fault(site: Site, _: Path) -> Iterator[None]:
        before = dict(site.settings)
        site.settings[key] = f"{site.name}/{value}".rstrip("/.")
        yield
        site.settings = before

    return fault


def booted(**values: object) -> Fault:
    @contextmanager
    def fault(_: Site, __: Path) -> Iterator[dict[str, object]]:
        yield values

    return fault


@contextmanager
def empty_device(_: Site, folder: Path) -> Iterator[dict[str, object]]:
    with loop_device(folder / "empty", 16) as loop:
        yield {"device": loop}


FAULTS: dict[str, tuple[Fault, str]] = {
    "the root is the default subvolume": (default_subvolume, "default subvolume"),
    "the root is a plain directory": (plain_directory, "plain directory"),
    "the root is a symbolic link": (symbolic_link, "not a subvolume"),
    "the root is mounted by its name": (mounted_with("subvol"), "mounted"),
    "the root is mounted by its id": (mounted_with("subvolid"), "mounted"),
    "the root is mounted in another namespace": (mounted_in_another_namespace, "mounted"),
    "a directory of the root is bound elsewhere": (something_of_it_bound_elsewhere, "mounted"),
    "something is mounted in the root": (something_mounted_in_it, "mounted"),
    "the base is missing": (missing_base, "does not exist.*btrfs subvolume snapshot"),
    "the base is not a subvolume": (base_without_subvolume, "not a subvolume"),
    "old-roots is a file": (old_roots_that_are_a_file, "old-roots"),
    "old-roots is a symbolic link": (old_roots_that_are_a_link, "old-roots"),
    "old-roots is on another subvolume": (old_roots_on_another_subvolume, "old-roots"),
    "old-roots is read-only": (read_only_old_roots, "old-roots"),
    "old-roots is in the root": (setting("old-roots", "root/old"), "overlap"),
    "old-roots contains the root": (setting("old-roots", "."), "overlap"),
    "the base is in the root": (setting("base", "root/base"), "overlap"),
    "the base is the root": (setting("base", "root"), "overlap"),
    "the base is in old-roots": (setting("base", "old_roots/base"), "overlap"),
    "no subvolume is named": (booted(subvolume=None), "top level"),
    "an empty subvolume is named": (booted(subvolume=""), "top level"),
    "the top level is named": (booted(subvolume="/"), "top level"),
    "the directory of the root is missing": (booted(subvolume="nowhere/root"), "does not exist"),
    "the device is missing": (booted(device="/dev/nonsense"), "nonsense"),
    "no device has the UUID": (booted(device=f"UUID={'0' * 8}-0000-0000-0000-{'0' * 12}"), "0000"),
    "the device is not one": (booted(device="nonsense"), "nonsense"),
    "the device has another filesystem": (empty_device, "is not a btrfs filesystem"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_refuses_to_wipe_until_the_fault_is_repaired(
    disk: Disk, tmp_path: Path, fault: str
) -> None:
    make, message = FAULTS[fault]
    site = disk.site().with_root()
    with make(site, tmp_path) as values:
        refused(site, message, values)
    assert site.rotate().problems == []
