"""A soft reboot into /run/nextroot: the boot is the same, but the root is another one.

The records of the persistence stage in /run are about the root that it prepared. Other roots are
generated: they are not copied to a store, marked or pruned.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ephemeroot.cli import copyback, status
from ephemeroot.errors import ForeignRoot
from ephemeroot.hooks.guards import ownership
from ephemeroot.hooks.operations.copies import Copy
from ephemeroot.hooks.operations.directories import Parent
from ephemeroot.plan import foreign
from layered_machine import STORE, LayeredMachine, layered_machine
from mounting import mount, unmount
from overlay_machine import InstalledRoot

pytestmark = [pytest.mark.requires_loop, pytest.mark.requires_program("mkfs.ext4")]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[LayeredMachine]:
    with layered_machine(tmp_path) as made:
        made.persist = [Parent(path="/etc", store=STORE, source="etc"),
                        Copy(path="/etc/app", store=STORE, source="etc/app")]  # fmt: skip
        with InstalledRoot(made.disks) as top:
            (top / "etc/app").write_text("seeded")
        assert made.boot() == [0, 0]
        yield made


def _tmpfs(machine: LayeredMachine, next_root: Path) -> None:
    mount("none", next_root, "-t", "tmpfs")


def _copy(machine: LayeredMachine, next_root: Path) -> None:
    """A copy of the root, with the records that a boot leaves in it."""
    _tmpfs(machine, next_root)
    words = ["cp", "--archive", "--one-file-system", f"{machine.root}/.", str(next_root)]
    subprocess.run(words, check=True)


def _installed(machine: LayeredMachine, next_root: Path) -> None:
    mount(machine.disks.device, next_root, "-o", "ro")


def _directory(machine: LayeredMachine, next_root: Path) -> None:
    """A directory of the same root."""
    (machine.root / "opt/next").mkdir(parents=True)
    mount(str(machine.root / "opt/next"), next_root, "--bind")


OTHERS: list[Callable[[LayeredMachine, Path], None]] = [_tmpfs, _copy, _installed, _directory]


def _copy_back(machine: LayeredMachine, root: Path) -> list[str]:
    recorded = copyback._recorded(machine.run / "copies")
    assert recorded is not None
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (root, machine.store)]
    try:
        return recorded.copy_back(fds[0], {STORE: fds[1]}).copied
    finally:
        for fd in fds:
            os.close(fd)


def _with_run_of(run: Path, root: Path) -> None:
    """A soft reboot keeps /run. The installed root is read-only: its /run is a mount point."""
    mount("none", root / "run", "-t", "tmpfs")
    (root / "run/ephemeroot").mkdir()
    mount(str(run), root / "run/ephemeroot", "--bind")


@contextlib.contextmanager
def _running(root: Path, run: Path) -> Iterator[None]:
    """What a soft reboot into *root*, with its store mounted, provides: the boot's *run*."""
    _with_run_of(run, root)
    mount("proc", root / "proc", "-t", "proc")
    try:
        yield
    finally:
        for place in ("proc", "run"):
            unmount(root / place)


def _copyback_unit(root: Path) -> int:
    """The call of the units in the running root: the verb, with *root* as its `/`."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.chroot(root)
            os.chdir("/")
            code = copyback.run(argparse.Namespace())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _accounts(name: str) -> str:
    return f"root:x:0:0::/root:/bin/sh\n{name}:x:1000:1000::/home/{name}:/bin/sh\n"


def test_two_alternating_roots_keep_their_accounts_apart(tmp_path: Path) -> None:
    """A soft reboot from one root into the other and back, twice, then the same after a boot of the
    other one: each store has the accounts of its own root, whichever root the boot has prepared.
    """
    passwd = Copy(path="/etc/passwd", store=STORE, source="etc/passwd")
    etc = Parent(path="/etc", store=STORE, source="etc")
    with layered_machine(tmp_path / "a") as first, layered_machine(tmp_path / "b") as second:
        machines = {"alice": first, "bob": second}
        for name, machine in machines.items():
            machine.persist = [etc, passwd]
            with InstalledRoot(machine.disks) as top:
                (top / "proc").mkdir()
                (top / "etc/passwd").write_text(_accounts(name))
            assert machine.boot() == [0, 0]
        for prepared in (first, second):
            stored = {name: _accounts(name) for name in machines}
            for turn, (name, machine) in enumerate([*machines.items()] * 2):
                text = _accounts(name) + f"turn{turn}:x:{1001 + turn}:100::/:/bin/sh\n"
                (machine.root / "etc/passwd").write_text(text)
                with _running(machine.root, prepared.run):
                    assert _copyback_unit(machine.root) == 0
                if machine is prepared:
                    stored[name] = text
                for one, other in machines.items():
                    assert (other.store / "etc/passwd").read_text() == stored[one], (name, one)
            for name, machine in machines.items():
                (machine.root / "etc/passwd").write_text(_accounts(name))
                (machine.store / "etc/passwd").write_text(_accounts(name))


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: other.__name__[1:])
def test_another_root_is_left_alone(
    machine: LayeredMachine, tmp_path: Path, other: Callable[[LayeredMachine, Path], None]
) -> None:
    next_root = tmp_path / "next"
    next_root.mkdir()
    other(machine, next_root)
    try:
        if other is not _installed:
            (next_root / "etc").mkdir(exist_ok=True)
            (next_root / "etc/app").write_text("of the next root")
            (next_root / "run").mkdir(exist_ok=True)
        with pytest.raises(ForeignRoot, match="replaced the root that the initramfs prepared"):
            _copy_back(machine, next_root)
        assert (machine.store / "etc/app").read_text() == "seeded"
        _with_run_of(machine.run, next_root)
        found = foreign.of_boot(next_root)
        assert found is not None
        assert found.kind == ownership.SOFT_REBOOT
        assert status.collect(str(next_root)).boot.state == "foreign"
    finally:
        unmount(next_root)


def test_the_same_root_after_a_soft_reboot_is_copied_back(
    machine: LayeredMachine, tmp_path: Path
) -> None:
    (machine.root / "etc/app").write_text("changed after the boot")
    mount(str(machine.root), tmp_path / "next", "--bind")
    try:
        assert _copy_back(machine, tmp_path / "next") == ["/etc/app"]
        assert (machine.store / "etc/app").read_text() == "changed after the boot"
        assert foreign.of_boot(machine.live()) is None
        assert status.collect(str(machine.root)).boot.state == "ephemeral"
    finally:
        unmount(tmp_path / "next")


def test_a_record_of_an_earlier_version_is_still_copied_back(machine: LayeredMachine) -> None:
    """The package was upgraded while the machine was up: the record of its boot does not name the
    root.
    """
    (machine.root / "etc/app").write_text("changed")
    record = machine.run / "copies"
    content = json.loads(record.read_text())
    del content["root"]
    record.write_text(json.dumps(content))
    assert _copy_back(machine, machine.root) == ["/etc/app"]
