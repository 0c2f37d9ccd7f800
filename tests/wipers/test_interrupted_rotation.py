"""Ctrl-C at every step of making a new root loses nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import proof
from btrfs_image import NOON, Disk, Site, btrfsutil, fresh_disk, uuid
from ephemeroot.linux import paths
from ephemeroot.wipers import retire
from ephemeroot.wipers import rotation as shared
from ephemeroot.wipers.btrfs import fresh, recovery, retirement, rotation
from ephemeroot.wipers.names import Name
from ephemeroot.wipers.overlay import uppers
from interrupting import Interrupter

pytestmark = pytest.mark.requires_loop

CODE = (fresh, rotation, shared, retirement, retire, recovery, paths)
EXCHANGE = ("_place_once", "_exchange", "rename", "into_history", "discard")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    with fresh_disk(tmp_path_factory.mktemp("disk"), 512) as made:
        yield made


def everything(site: Site) -> dict[str, Path]:
    """The subvolumes of *site*, by UUID."""
    found = {}
    for folder in (site.path, site.old_roots):
        for name in os.listdir(folder):
            if (folder / name).stat().st_ino == 256:
                found[uuid(folder / name)] = folder / name
    return found


def test_an_interruption_at_any_step_of_a_rotation_loses_nothing(disk: Disk) -> None:
    site = disk.site().with_root().with_base()
    site.settings["keep-last"] = 1 << 20
    interrupter = Interrupter(CODE, EXCHANGE)
    site.rotate(NOON)
    site.live("content 0")
    assert interrupter.run(lambda: site.rotate(NOON + 1))
    site.live("content 0")
    assert interrupter.steps > 300
    now, interrupted = NOON + 2, 0
    for step in proof.sample(range(interrupter.steps), 100):
        before = everything(site)
        content = f"content {step}"
        site.live(content)
        root = uuid(site.root)
        finished = interrupter.run(partial(site.rotate, now), at=step)
        now += 1
        where = f"step {step}: {interrupter.place}"
        interrupted += not finished
        after = everything(site)
        assert before.keys() <= after.keys(), where
        assert (after[root] / "file").read_text() == content, where
        # The subvolume with the root's name is complete.
        assert (site.root / "file").exists() or (site.root / "origin").exists(), where
        site.live()
        site.rotate(now)
        now += 1
        assert everything(site).keys() >= before.keys(), where
        assert site.strays() == [], where
        for name in site.old()[2:]:
            btrfsutil.delete_subvolume(str(site.old_roots / name))
    assert interrupted > 80
    proof.record("interruption at a step: btrfs rotation", interrupted)


def test_an_interruption_at_any_step_of_a_layer_loses_no_other_layer(disk: Disk) -> None:
    site = disk.site("layers")
    interrupter = Interrupter((uppers, retire, paths), ("make", "retire", "into_history", "rename"))
    now = float(NOON)

    def boot(layers: uppers.Uppers, pattern: int) -> None:
        if layers.present() is not None:
            layers.retire(Name(now), lambda name: name)
        layers.make(pattern, now)

    def run(at: int | None = None) -> bool:
        nonlocal now
        now += 1
        pattern = os.open(site.path, os.O_RDONLY | os.O_DIRECTORY)
        layers = uppers.Uppers(str(site.path))
        try:
            return interrupter.run(lambda: boot(layers, pattern), -1 if at is None else at)
        finally:
            layers.close()
            os.close(pattern)

    folder = site.path / uppers.FOLDER
    assert run()
    assert run()
    steps = interrupter.steps
    assert steps > 100
    for step in range(steps):
        (folder / uppers.UPPER / "file").write_text(f"content {step}")
        assert not run(step)
        place = interrupter.place
        assert run()
        kept = [path / "file" for path in (folder / uppers.OLD).iterdir()]
        found = [path.read_text() for path in kept if path.exists()]
        assert f"content {step}" in found, f"step {step}: {place}"
    proof.record("interruption at a step: overlay layer", steps)
