"""A container's storage in the installed root, below an overlay root.

The overlay hides whiteouts and opaque directories. A seeded tree must be the same as without an
overlay; edits are generated, and made both in the overlay and in a plain copy of the tree.
"""

from __future__ import annotations

import itertools
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import proof
from ephemeroot.hooks.operations.directories import Directory, Parent
from ephemeroot.linux import mounts
from ephemeroot.old_roots import restore_steps, restoring
from layered_machine import STORE, LayeredMachine, layered_machine
from overlay_machine import InstalledRoot

pytestmark = [pytest.mark.requires_loop, pytest.mark.requires_program("mkfs.ext4")]

PATH = "var/lib/docker"
OPAQUE = "trusted.overlay.opaque"


ATTRIBUTES = (
    (OPAQUE, b"x"), ("trusted.overlay.redirect", b"/elsewhere"), ("trusted.overlay.origin", b"\0"),
    ("trusted.overlay.impure", b"y"), ("trusted.overlay.overlay.opaque", b"y"),
    ("user.overlay.opaque", b"y"),
)  # fmt: skip
"""The attributes that engines set on directories: for their overlays, for nested and for
unprivileged ones.
"""


def fill(top: Path) -> None:
    """Two containers with deleted and replaced files in their layers."""
    for name in ("one", "two"):
        diff = top / f"overlay2/{name}/diff"
        (diff / "etc").mkdir(parents=True)
        (diff / "opq/deep").mkdir(parents=True)
        (diff / "opq/deep/f").write_text(name)
        (diff / "etc/conf").write_text(name)
        os.mknod(diff / "etc/deleted", stat.S_IFCHR, os.makedev(0, 0))
        os.mknod(diff / "opq/deep/gone", stat.S_IFCHR, os.makedev(0, 0))
        os.setxattr(diff / "opq", OPAQUE, b"y")
        for number, (attribute, value) in enumerate(ATTRIBUTES):
            (diff / f"d{number}").mkdir()
            (diff / f"d{number}/f").write_text(name)
            os.setxattr(diff / f"d{number}", attribute, value)
    os.link(top / "overlay2/one/diff/etc/conf", top / "overlay2/one/diff/etc/linked")
    os.link(top / "overlay2/one/diff/etc/conf", top / "overlay2/two/diff/of-another")
    (top / "engine.db").write_text("db")
    # In an overlay above them, the kernel allows no program to read or remove these: a whiteout
    # without a device (Linux 6.7), and a file of which only attributes were changed.
    unseen = top / "overlay2/unseen/diff"
    unseen.mkdir(parents=True)
    os.setxattr(unseen, OPAQUE, b"x")
    for name in ("whiteout", "metacopy"):
        (unseen / name).touch()
        os.setxattr(unseen / name, f"trusted.overlay.{name}", b"")


def _write(top: Path) -> None:
    (top / "overlay2/one/diff/opq/deep/f").write_text("changed")


def _add(top: Path) -> None:
    (top / "overlay2/one/diff/etc/new").write_text("new")
    (top / "overlay2/three/diff").mkdir(parents=True)


def _remove(top: Path) -> None:
    (top / "engine.db").unlink()
    shutil.rmtree(top / "overlay2/two/diff/opq/deep", ignore_errors=True)
    subprocess.run(["rm", "-r", "-f", top / "overlay2/two/diff/opq"], check=False)


def _again(top: Path) -> None:
    """The engine removes a container and makes one with the same name."""
    subprocess.run(["rm", "-r", "-f", top / "overlay2/two"], check=False)
    (top / "overlay2/two").mkdir()
    (top / "overlay2/two/link").write_text("new")
    # The opaque directory is above this one, which the storage below has with a whiteout in it.
    (top / "overlay2/two/diff/etc").mkdir(parents=True)
    (top / "overlay2/two/diff/opq/deep").mkdir(parents=True)


def _mode(top: Path) -> None:
    (top / "overlay2/one/diff/opq").chmod(0o700)


EDITS: list[Callable[[Path], None]] = [_write, _add, _remove, _again, _mode]
SETS = [edits for count in range(4) for edits in itertools.combinations(EDITS, count)]


def tree(top: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    links: dict[tuple[int, int], list[str]] = {}
    for folder, directories, files in os.walk(top):
        for name in (*directories, *files):
            path = Path(folder, name)
            status = path.lstat()
            shown = str(path.relative_to(top))
            facts: list[object] = [oct(status.st_mode), status.st_rdev]
            if stat.S_ISREG(status.st_mode):
                facts.append(path.read_text())
                links.setdefault((status.st_dev, status.st_ino), []).append(shown)
            facts += sorted(
                (key, os.getxattr(path, key, follow_symlinks=False))
                for key in os.listxattr(path, follow_symlinks=False)
                if ".overlay." in key
            )
            found[shown] = facts
    found["links"] = sorted(sorted(names) for names in links.values() if len(names) > 1)
    return found


def ids(edits: tuple[Callable[[Path], None], ...]) -> str:
    return "-".join(edit.__name__[1:] for edit in edits) or "nothing"


@pytest.mark.parametrize("edits", proof.sample(SETS, 3, seed=6), ids=ids)
def test_seeded_storage_is_the_same_as_without_an_overlay(
    tmp_path: Path, edits: tuple[Callable[[Path], None], ...]
) -> None:
    with layered_machine(tmp_path) as machine:
        model = tmp_path / "model"
        model.mkdir()
        fill(model)
        with InstalledRoot(machine.disks) as top:
            (top / PATH).mkdir(parents=True)
            fill(top / PATH)
        machine.boot()
        for edit in edits:
            edit(machine.root / PATH)
            edit(model)
        declare(machine)
        assert machine.boot() == [0, 0], machine.report("wipe")
        assert tree(machine.store / PATH) == tree(model)
        assert tree(machine.root / PATH) == tree(model)


@pytest.mark.parametrize("memory", [False, True], ids=["volume", "memory"])
def test_seeds_storage_declared_at_the_first_boot(tmp_path: Path, memory: bool) -> None:
    with layered_machine(tmp_path, memory=memory) as machine:
        model = tmp_path / "model"
        model.mkdir()
        fill(model)
        with InstalledRoot(machine.disks) as top:
            (top / PATH).mkdir(parents=True)
            fill(top / PATH)
        declare(machine)
        assert machine.boot() == [0, 0], machine.report("persist")
        assert tree(machine.store / PATH) == tree(model)


def declare(machine: LayeredMachine) -> None:
    machine.generation += 1
    machine.persist = [
        *(Parent(path=f"/{path}", store=STORE, source=path) for path in ("var", "var/lib")),
        Directory(path=f"/{PATH}", store=STORE, source=PATH),
    ]


def test_restore_reports_entries_that_an_old_layer_does_not_show(tmp_path: Path) -> None:
    with layered_machine(tmp_path) as machine:
        with InstalledRoot(machine.disks) as top:
            (top / PATH).mkdir(parents=True)
            fill(top / PATH)
        machine.boot()
        (machine.root / "etc/x").write_text("x")
        machine.boot()
        old, new = tmp_path / "old", tmp_path / "new"
        for place in (old, new / PATH / "overlay2/one/diff/etc"):
            place.mkdir(parents=True)
        with machine.disks.history() as history:
            mounts.attach_at(history.mount(history.retired()[-1]), str(old))
        fds = [os.open(place, os.O_RDONLY | os.O_DIRECTORY) for place in (old, new)]
        try:
            plan = restoring.Plan()
            places = [restore_steps.locate(fd, f"/{PATH}") for fd in fds]
            plan.add(*places, overwrite=False)
            for step in plan.steps:
                step.execute()
            left = [path for step in plan.steps for path, _ in getattr(step, "left_out", [])]
            said = {*left, *(path for path, _ in plan.kept)}
            assert f"/{PATH}/overlay2/one/diff/etc/deleted" in said
            assert any(path.endswith("opq/deep/gone") for path in said)
            assert (new / PATH / "overlay2/two/diff/opq/deep/f").read_text() == "two"
        finally:
            for fd in fds:
                os.close(fd)
            subprocess.run(["umount", old], check=True)
