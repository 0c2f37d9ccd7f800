"""Package manager hooks: the program reports and records packages that the next boot removes, and
makes them permanent. With the real apt, and with the hooks that ``setup`` installs.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import package_repository
from btrfs_image import btrfsutil
from ephemeroot.base import package_managers, package_record
from ephemeroot.errors import Damaged
from ephemeroot.image import package_hooks
from ephemeroot.image.steps import Installation
from package_repository import Repository
from verb_machine import PROGRAM, Ended, Image, VerbMachine

PACKAGES = "opt/packages"


@pytest.fixture
def machine(verb_image: Image, tmp_path: Path) -> Iterator[VerbMachine]:
    """A machine with apt and its hooks, where none of the packages ``one`` to ``four`` is
    installed.
    """

    def prepare(machine: VerbMachine) -> None:
        base = machine.top / "root-base"
        package_repository.configure(base, f"/{PACKAGES}")
        with tempfile.TemporaryDirectory() as folder:
            repository = Repository(base / PACKAGES, Path(folder))
            for name in ("one", "two", "three", "four"):
                repository.publish(name, "1", {f"opt/{name}": "1\n"})
        for item in package_hooks.items("apt", PROGRAM):
            if item.name.startswith("/etc/"):  # /usr of the host, below an overlay
                Installation(item, base).execute()
        (base / "etc/apt/preferences.d").mkdir()
        btrfsutil.sync(str(machine.top))
        machine.reboot()

    with verb_image.machine("packages", prepare) as made:
        _apt(made, "update")
        yield made


def _apt(machine: VerbMachine, *words: str) -> Ended:
    return machine.run("apt-get", "-y", *words)


def _recorded(machine: VerbMachine) -> dict[str, tuple[str | None, str | None]]:
    status: dict[str, Any] = json.loads(machine.ephemeroot("status", "--json").out)
    return {one["name"]: (one["base"], one["running"]) for one in status["packages"]}


@pytest.mark.requires_loop
@pytest.mark.requires_program("apt-get")
def test_reports_packages_that_the_next_boot_removes_until_they_are_permanent(
    machine: VerbMachine,
) -> None:
    machine.must("install", "--yes", "two")  # the base is now newer than the root
    done = _apt(machine, "install", "one")
    assert done.code == 0, done.err
    line = (
        "ephemeroot: the next boot forgets the change of 1 package of the running root (one): "
        "'ephemeroot install one' makes it permanent"
    )
    assert (done.out + done.err).rstrip().endswith(line)
    assert _recorded(machine) == {"one": (None, "1")}
    assert "'ephemeroot install one' makes it permanent" in machine.ephemeroot("status").out
    machine.must("install", "--yes", "one")
    assert _recorded(machine) == {}
    done = _apt(machine, "remove", "one")
    assert "'ephemeroot remove one' makes it permanent" in done.out + done.err
    assert _recorded(machine) == {"one": ("1", None)}
    done = _apt(machine, "install", "one")
    assert "the next boot forgets" not in done.out + done.err
    assert _recorded(machine) == {}
    _apt(machine, "install", "three")
    machine.must("package-change", "base")
    assert _recorded(machine) == {}
    assert (machine.top / "root-base/opt/three").exists()


@pytest.mark.requires_loop
@pytest.mark.requires_program("apt-get")
def test_refuses_a_transaction_that_belongs_in_the_base(machine: VerbMachine) -> None:
    toml = machine.inside("/etc/ephemeroot/ephemeroot.toml")
    text = toml.read_text()
    toml.write_text(f'on-package-change = "redirect"\n{text}')
    done = _apt(machine, "install", "one")
    assert done.code != 0
    assert "run 'ephemeroot install PACKAGE'" in done.out + done.err
    assert not machine.inside("/opt/one").exists()
    assert machine.ephemeroot("package-change", "unattended").code == 10
    machine.must("install", "--yes", "--now", "one")
    assert machine.inside("/opt/one").exists()
    assert (machine.top / "root-base/opt/one").exists()
    toml.write_text(f'on-package-change = "off"\n{text}')
    done = _apt(machine, "install", "four")
    assert done.code == 0
    assert "ephemeroot" not in done.out + done.err
    assert machine.ephemeroot("package-change", "unattended").code == 0


@pytest.mark.parametrize("manager", [one.name for one in package_managers.MANAGERS])
def test_setup_installs_and_removes_the_hooks(manager: str, tmp_path: Path) -> None:
    def setup(*words: str) -> list[str]:
        done = subprocess.run(
            [PROGRAM, "--root", tmp_path, "setup", "dracut", "--package-manager", manager, *words],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.splitlines()

    setup()
    found = package_hooks.items(manager, "/usr/bin/ephemeroot")
    assert found
    for item in found:
        path = tmp_path / item.name[1:]
        assert "/usr/bin/ephemeroot package-change" in path.read_text()
        assert path.stat().st_mode & 0o777 == item.mode
    setup("--remove")
    assert not any((tmp_path / item.name[1:]).exists() for item in found)


def test_the_libzypp_plugin_answers_each_frame(tmp_path: Path) -> None:
    program = tmp_path / "ephemeroot"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n')
    program.chmod(0o755)
    (item,) = package_hooks.items("zypper", str(program))
    plugin = tmp_path / "plugin"
    plugin.write_bytes(item.content)
    frames = ["PLUGINBEGIN\n\n", "COMMITBEGIN\n\n{}", "COMMITEND\n\n{}", "PLUGINEND\n\n",
              "_DISCONNECT\n\n"]  # fmt: skip
    with subprocess.Popen(
        ["bash", plugin], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for frame in frames:
            process.stdin.write(frame.encode() + b"\0")
            process.stdin.flush()
            # libzypp sends the next frame after the answer to this one.
            answer = b""
            while not answer.endswith(b"\0"):
                answer += os.read(process.stdout.fileno(), 100)
            assert answer == b"ACK\n\n\0"
    assert process.returncode == 0
    assert (tmp_path / "called").read_text() == "package-change after\n"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"packages": 3}', '{"packages": {"a": 1}}']
)
def test_a_damaged_record_gives_a_clear_error(content: str, tmp_path: Path) -> None:
    path = tmp_path / package_record.RECORD
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(Damaged, match="cannot be read"):
        package_record.read(tmp_path)
