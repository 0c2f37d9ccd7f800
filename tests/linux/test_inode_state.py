"""Flags, projects, preallocated space and subvolumes: each kind, with every function and verb that
copies.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from boot import STORE, Boot, copy
from btrfs_image import fresh_disk
from copying_back import copy_back
from ephemeroot import cli
from ephemeroot.linux.copying import Copier
from ephemeroot.linux.removal import remove
from ephemeroot.linux.workshop import PREFIX, Workshop, sweep
from inode_state import BTRFS, EVERYWHERE, PROJECTS, furnish, picture, state, unlock
from leaving_machine import MachineInUse, leave
from living_machine import DAY, NOON, living_machine
from machine_tree import MachineTree
from seeding_machine import seeding_machine

pytestmark = [
    pytest.mark.requires_loop,
    pytest.mark.usefixtures("private_mounts"),
    *(pytest.mark.requires_program(name) for name in ("chattr", "fallocate", "mkfs.xfs")),
]


@contextmanager
def filesystem(folder: Path, name: str, *words: str) -> Iterator[Path]:
    image, point = folder / f"{name}.image", folder / name
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(320 << 20)
    subprocess.run([*words, image], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)


MAKE = {
    "btrfs": ("mkfs.btrfs", "-q"),
    "ext4": ("mkfs.ext4", "-q", "-F"),
    "xfs": ("mkfs.xfs", "-q"),
}
CASES = {"btrfs": BTRFS, "ext4": EVERYWHERE, "xfs": PROJECTS}


@pytest.mark.parametrize("kind", MAKE)
def test_a_copy_has_every_flag_on_the_same_type_of_filesystem(kind: str, tmp_path: Path) -> None:
    with (
        filesystem(tmp_path, "one", *MAKE[kind]) as one,
        filesystem(tmp_path, "two", *MAKE[kind]) as two,
    ):
        for source, target in ((one, one), (one, two)):
            (source / "tree").mkdir()
            furnish(source / "tree", CASES[kind], subvolumes=kind == "btrfs")
            expected = picture(source / "tree")
            place, top = os.open(target, os.O_RDONLY), os.open(source, os.O_RDONLY)
            try:
                with Workshop(place) as workshop:
                    copier = Copier()
                    copier.copy(top, "tree", workshop.fd, "copy")
                    workshop.deliver("copy", "copy")
                assert picture(target / "copy") == expected
                assert copier.flattened == []
                for directory, name in ((top, "tree"), (place, "copy")):
                    assert remove(directory, name, subvolumes=True, unlock=True)
            finally:
                os.close(place)
                os.close(top)


def test_a_copy_on_another_type_of_filesystem_has_the_flags_that_it_supports(
    tmp_path: Path,
) -> None:
    with (
        filesystem(tmp_path, "one", *MAKE["btrfs"]) as one,
        filesystem(tmp_path, "two", "mkfs.ext4", "-q", "-F") as two,
    ):
        (one / "tree").mkdir()
        furnish(one / "tree", BTRFS, subvolumes=True)
        place, top = os.open(two, os.O_RDONLY), os.open(one, os.O_RDONLY)
        with Workshop(place) as workshop:
            copier = Copier()
            copier.copy(top, "tree", workshop.fd, "copy")
            workshop.deliver("copy", "copy")
        assert sorted(copier.flattened) == [
            "read-only", "read-only/nested", "subvolume", "subvolume/nested",
        ]  # fmt: skip
        for name in EVERYWHERE:
            for kind in ("file", "twice", "directory"):
                entry = f"{kind}-{name}"
                assert state(two / "copy" / entry) == state(one / "tree" / entry), entry
        assert remove(place, "copy", unlock=True)
        os.close(place)
        os.close(top)
        unlock(one / "tree")


@pytest.mark.parametrize("flag", ["+i", "+a", "+ai"])
def test_a_single_entry_replaces_protected_files(flag: str, tmp_path: Path) -> None:
    with filesystem(tmp_path, "one", *MAKE["btrfs"]) as one:
        for kind in ("file", "directory"):
            source, target = one / f"source-{kind}", one / f"target-{kind}"
            for path in (source, target):
                path.mkdir() if kind == "directory" else path.write_text(path.name)
                subprocess.run(["chattr", flag, path], check=True)
            expected, present = state(source), os.lstat(target)
            place = os.open(one, os.O_RDONLY)
            with Workshop(place) as workshop:
                Copier().copy(place, source.name, workshop.fd, "copy")
                assert workshop.replace("copy", target.name, present)
            assert state(target) == expected
            assert not [name for name in os.listdir(one) if name.startswith(PREFIX)]
            os.close(place)
        unlock(one)


def test_removes_an_interrupted_workshop_with_protected_files(tmp_path: Path) -> None:
    with filesystem(tmp_path, "one", *MAKE["btrfs"]) as one:
        (one / "tree").mkdir()
        furnish(one / "tree", BTRFS, subvolumes=True)
        place = os.open(one, os.O_RDONLY)
        child = os.fork()
        if child == 0:
            workshop = Workshop(place)
            Copier().copy(place, "tree", workshop.fd, "copy", subvolume=True)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert [name for name in os.listdir(one) if name.startswith(PREFIX)]
        sweep(place)
        assert os.listdir(one) == ["tree"]
        os.close(place)
        unlock(one)


def test_never_removes_a_subvolume_that_is_not_part_of_a_workshop(tmp_path: Path) -> None:
    with filesystem(tmp_path, "one", *MAKE["btrfs"]) as one:
        (one / "old/inner").mkdir(parents=True)
        subprocess.run(["btrfs", "-q", "subvolume", "create", one / "old/inner/own"], check=True)
        (one / "old/inner/own/data").write_text("years of work")
        place = os.open(one, os.O_RDONLY)
        with Workshop(place) as workshop:
            os.mkdir("copy", dir_fd=workshop.fd)
            assert workshop.replace("copy", "old", os.lstat(one / "old"))
        sweep(place)
        found = [path.read_text() for path in one.rglob("data")]
        assert found == ["years of work"]
        os.close(place)


def test_the_message_names_the_immutable_directory(tmp_path: Path) -> None:
    with filesystem(tmp_path, "one", *MAKE["ext4"]) as one:
        (one / "closed").mkdir()
        subprocess.run(["chattr", "+i", one / "closed"], check=True)
        place = os.open(one / "closed", os.O_RDONLY)
        with pytest.raises(PermissionError) as raised:
            Workshop(place)
        assert "the directory is immutable" in str(raised.value)
        assert str(one / "closed") in str(raised.value)
        os.close(place)
        unlock(one)


# The verbs.


def without_links(picture: dict[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
    return {name: (*facts[:6], facts[7]) for name, facts in picture.items() if name != "hidden"}


def test_seeding_keeps_every_flag(tmp_path: Path) -> None:
    with seeding_machine(tmp_path, "btrfs", "quota", kind="directory", users=False) as machine:
        machine.first_boot()
        machine.content()
        furnish(machine.target / machine.path[1:], BTRFS, subvolumes=True)
        expected = picture(machine.target / machine.path[1:])
        machine.live()
        machine.declared = True
        assert machine.boot() == (0, 0), machine.said("wipe") + machine.said("persist")
        assert picture(machine.stored) == expected


def test_seeding_names_subvolumes_that_become_directories(tmp_path: Path) -> None:
    with seeding_machine(tmp_path, "btrfs", "size", kind="directory", users=False) as machine:
        machine.first_boot()
        machine.content()
        furnish(machine.target / machine.path[1:], EVERYWHERE, subvolumes=True)
        machine.live()
        machine.declared = True
        assert machine.boot() == (0, 0), machine.said("wipe") + machine.said("persist")
        operations = machine.report("wipe")["operations"]
        assert isinstance(operations, list)
        said = "\n".join(one["result"] for one in operations)
        assert "/srv/data/read-only" in said
        assert "became directories" in said
        unlock(machine.stored)


def test_adoption_keeps_every_flag(tmp_path: Path) -> None:
    with fresh_disk(tmp_path) as disk, disk.mounted_root(tmp_path / "machine") as root:
        store = root / "persistent"
        disk.mount("persistent", store)
        machine = MachineTree(root)
        machine.write("srv/app/file", "content")
        furnish(root / "srv/app", BTRFS, subvolumes=True)
        expected = picture(root / "srv/app")
        assert cli.main(["adopt", "--root", str(root), "/srv/app"]) == 0
        assert picture(store / "srv/app") == expected
        assert picture(root / "srv/app") == expected


def test_restoring_keeps_every_flag(tmp_path: Path) -> None:
    with living_machine(tmp_path) as machine:
        machine.boot()
        (machine.root / "opt/app").mkdir(parents=True)
        furnish(machine.root / "opt/app", BTRFS, subvolumes=True)
        expected = picture(machine.root / "opt/app")
        machine.boot(NOON + DAY)
        done = machine.call("roots", "restore", "/opt/app", "--from", machine.old()[-1])
        assert done.returncode == 0, done.stderr
        assert picture(machine.root / "opt/app") == expected
        (machine.root / "etc/hostname").write_text("mine\n")
        subprocess.run(["chattr", "+i", machine.root / "etc/hostname"], check=True)
        done = machine.call(
            "roots", "restore", "/etc/hostname", "--overwrite", "--from", machine.old()[-1]
        )
        assert "/etc/hostname is not restored: it is immutable" in done.stderr
        assert (machine.root / "etc/hostname").read_text() == "mine\n"
        subprocess.run(["chattr", "-i", machine.root / "etc/hostname"], check=True)


def test_leaving_keeps_every_flag(tmp_path: Path) -> None:
    with fresh_disk(tmp_path) as disk:
        machine = MachineInUse(tmp_path, disk.loop, disk.top)
        try:
            root = machine.start()
            furnish(root / "srv", BTRFS, subvolumes=True)
            subprocess.run(["chattr", "+i", machine.bare / "srv/hidden"], check=True)
            expected = picture(machine.top / "persistent/srv")
            assert leave(root, "--yes") == 0
            # Entry by entry: several names of one file become separate files.
            assert without_links(picture(machine.bare / "srv")) == without_links(expected)
            plain = machine.reboot_plain()
            machine.finish(plain)
            assert without_links(picture(plain / "srv")) == without_links(expected)
        finally:
            machine.next_boot()


@pytest.mark.parametrize("fstype", ["btrfs", "ext4"])
def test_copying_at_boot_and_copying_back_keep_every_flag(fstype: str, tmp_path: Path) -> None:
    cases = BTRFS if fstype == "btrfs" else EVERYWHERE
    boot = Boot(tmp_path, fstype)
    try:
        (boot.store / "tree").mkdir()
        furnish(boot.store / "tree", cases)
        names = [f"file-{name}" for name in cases]
        expected = {name: state(boot.store / "tree" / name) for name in names}
        (boot.target / "tree").mkdir()
        for name in names:  # from the base
            (boot.target / "tree" / name).write_text("of the base")
            subprocess.run(["chattr", "+i", boot.target / "tree" / name], check=True)
        boot.persist(*(copy(f"/tree/{name}") for name in names))
        assert boot.problems() == []
        root, store = boot.root("/tree"), boot.root(STORE) / "tree"
        assert {name: state(root / name) for name in names} == expected
        assert copy_back(boot).copied == []
        for name in names:
            subprocess.run(["chattr", "-ai", root / name], check=True)
            with (root / name).open("r+b") as file:
                file.write(b"changed by its user")
            if name.endswith(("immutable", "append")):
                subprocess.run(["chattr", "+i", root / name], check=True)
        changed = {name: state(root / name) for name in names}
        back = copy_back(boot)
        assert back.problems == []
        assert sorted(back.copied) == sorted(f"/tree/{name}" for name in names)
        assert {name: state(store / name) for name in names} == changed
        # Only the flag differs, which is a change, too.
        subprocess.run(["chattr", "+i", root / "file-plain"], check=True)
        assert copy_back(boot).copied == ["/tree/file-plain"]
        assert state(store / "file-plain") == state(root / "file-plain")
        assert copy_back(boot).copied == []
    finally:
        unlock(boot.target)
        boot.unmount()
