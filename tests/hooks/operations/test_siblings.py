"""Declared directories in the same directory, which stays open from one operation to the next."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

import proof
from boot import Boot, directory, parent
from ephemeroot.hooks.operations.volumes import Attach
from ephemeroot.hooks.stage import Stage
from ephemeroot.linux import mountinfo

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]

# Of these, some are beside one another, and some are mounted over the directory of others: /srv/a
# is a volume, which is attached without a look at the directory that it is in.
PATHS = ("/srv", "/srv/a", "/srv/b", "/srv/a/one", "/srv/a/two")
VOLUME = "/srv/a"
ORDERS = list(itertools.permutations(PATHS))
# The volume covers the directory that is open, between two paths that are in it.
COVERED = ("/srv", "/srv/a/one", "/srv/a", "/srv/a/two", "/srv/b")


def mounted(base: Path, order: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """What a boot that carries out the operations in *order* mounts: each mount point, the
    directory that is mounted there, and the one that is mounted where it is attached.
    """
    base.mkdir()
    boot = Boot(base)
    try:
        (boot.store / "srv/a/one").mkdir(parents=True)
        (boot.store / "srv/a/two").mkdir()
        (boot.store / "srv/b").mkdir()
        volume = Attach(mount_point=VOLUME, volume="persistent")
        operations = [volume if path == VOLUME else directory(path) for path in order]
        boot.persist(parent("/srv"), parent("/srv/a"), *operations)
        assert boot.problems() == []
        top = str(boot.target)
        everything = {mount.id: mount for mount in mountinfo.mounts()}
        return [
            (mount.point.removeprefix(top), mount.root, everything[mount.parent].root)
            for mount in everything.values()
            if mount.point.startswith(f"{top}/srv")
        ]
    finally:
        boot.unmount()


@pytest.mark.parametrize("order", sorted({COVERED, *proof.sample(ORDERS, 10)}), ids=" ".join)
def test_mounts_are_those_of_a_boot_that_keeps_no_directory_open(
    order: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = mounted(tmp_path / "usual", order)
    with monkeypatch.context() as patch:
        patch.setattr(Stage, "begin", lambda stage, _path: stage.leave_directory())
        anew = mounted(tmp_path / "anew", order)
    assert usual == anew
    assert len(usual) == len(PATHS)


def test_the_parent_of_consecutive_directories_is_opened_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[str] = []
    leave = Stage.leave_directory

    def count(stage: Stage) -> None:
        if stage.beside:
            left.append(stage.beside)
        leave(stage)

    monkeypatch.setattr(Stage, "leave_directory", count)
    boot = Boot(tmp_path)
    names = [f"/srv/d{number}" for number in range(5)]
    boot.persist(parent("/srv"), *map(directory, names), directory("/opt/a"))
    boot.unmount()
    assert left.count("/srv") == 1
