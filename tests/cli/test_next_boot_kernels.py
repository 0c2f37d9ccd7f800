"""A request for an old root is compared with the installed kernels when it is made."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import proof
from living_machine import NOON, LivingMachine, living_machine

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]

KERNELS = ("6.1.0-old", "6.12.0-new")
SETS = [set(found) for n in range(3) for found in itertools.combinations(KERNELS, n)]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LivingMachine]:
    """A machine with one old root."""
    with living_machine(tmp_path_factory.mktemp("machine")) as machine:
        machine.boot()
        machine.boot(NOON + 60)
        yield machine


def describe(releases: set[str]) -> str:
    """A name for the test's ID."""
    return "+".join(sorted(releases)) or "none"


def provide(folder: Path, releases: Iterable[str]) -> None:
    """Put modules of these kernels, and no others, in the root *folder*."""
    shutil.rmtree(folder / "usr/lib/modules", ignore_errors=True)
    for release in releases:
        (folder / "usr/lib/modules" / release).mkdir(parents=True)


def install(root: Path, releases: Iterable[str]) -> None:
    """Put kernels of these releases, and no others, in /boot."""
    shutil.rmtree(root / "boot", ignore_errors=True)
    (root / "boot").mkdir()
    for release in releases:
        (root / "boot" / f"vmlinuz-{release}").write_text("kernel")


def ask(machine: LivingMachine, *words: str) -> subprocess.CompletedProcess[str]:
    (name,) = machine.old()
    return machine.call("next-boot", "root", name.removesuffix(".keep"), *words)


@pytest.mark.parametrize(
    ("boots", "have", "words"),
    [
        pytest.param(boots, have, words, id=f"{describe(boots)}-{describe(have)}{''.join(words)}")
        for boots, have, words in proof.sample(
            [*itertools.product(SETS[1:], SETS, [(), ("--dry-run",)])], 8
        )
    ],
)
def test_warns_of_kernels_without_modules_and_refuses_without_any_kernel(
    machine: LivingMachine, have: set[str], boots: set[str], words: tuple[str, ...]
) -> None:
    (name,) = machine.old()
    provide(machine.disk.top / "old_roots" / name, have)
    install(machine.root, boots)
    done = ask(machine, *words)
    without = boots - have
    if not have or not without:
        assert (done.returncode, done.stderr) == (0, "")
    elif boots & have:
        assert done.returncode == 0
        assert f"has no modules for the kernel {' and '.join(sorted(without))}: " in done.stderr
        for release in boots & have:
            assert f"choose the entry of /boot/vmlinuz-{release} ({release})" in done.stderr
    else:
        assert done.returncode == 1
        assert "a boot would refuse it" in done.stderr
        assert f"install the kernel {max(have)} again" in done.stderr
    asked = json.loads(machine.call("next-boot", "--json").stdout)["request"]
    assert asked == ("root" if done.returncode == 0 and not words else None)
    assert machine.call("next-boot", "--clear").returncode == 0


def test_the_command_of_the_hint_restores_the_file(machine: LivingMachine) -> None:
    (name,) = machine.old()
    old = machine.disk.top / "old_roots" / name
    provide(old, ["1.0"])
    (old / "etc/needed").write_text("x")
    install(machine.root, ["6.1.0-old"])
    hint = ask(machine).stderr.partition("'ephemeroot ")[2].partition("'")[0]
    words = hint.replace("PATH", "/etc/needed").split()
    assert machine.call(*words).returncode == 0
    assert (machine.root / "etc/needed").read_text() == "x"
