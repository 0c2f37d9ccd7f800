"""``ephemeroot upgrade``, ``install`` and ``remove`` with the real apt and a repository of the
test: the next root has the whole change or none of it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from base_machine import Machine
from btrfs_image import btrfsutil, fresh_disk
from package_repository import Repository, configure

pytestmark = [pytest.mark.requires_loop, pytest.mark.requires_program("apt-get")]

STORE = """\
[[volumes]]
mount-point = "/persistent"
device = "{device}"
type = "btrfs"
options = ["subvol=persistent"]
[persistence."/persistent"]
files = ["/etc/tool.conf"]
"""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with fresh_disk(tmp_path, 512) as disk:
        yield Machine(disk, tmp_path / "machine")


@pytest.fixture
def repository(machine: Machine, tmp_path: Path) -> Repository:
    """A repository with version 1 of ``tool``, which the base has. It is in /run, which every copy
    of the base sees, too.
    """
    configure(machine.top / "root", "/run/packages")
    repository = Repository(machine.run_folder / "packages", tmp_path / "packages")
    repository.publish("tool", "1", {"opt/tool": "one\n", "etc/tool.conf": "default = 1\n"})
    machine.create()
    done = machine.call("install", "--yes", "tool")
    assert done.returncode == 0, done.stderr
    return repository


def document(done: subprocess.CompletedProcess[str], code: int = 0) -> dict[str, Any]:
    assert done.returncode == code, done.stdout + done.stderr
    content: dict[str, Any] = json.loads(done.stdout)
    assert (content["format"], content["version"]) == ("ephemeroot-packages", 1)
    return content


def test_upgrade_changes_the_base_and_not_the_running_root(
    machine: Machine, repository: Repository
) -> None:
    repository.publish("tool", "2", {"opt/tool": "two\n", "etc/tool.conf": "default = 2\n"})
    before = machine.old()
    said = document(machine.call("upgrade", "--yes", "--json"))
    assert (machine.path / "opt/tool").read_text() == "two\n"
    assert not (machine.top / "root/opt/tool").exists()
    assert said["packages"] == [{"name": "tool", "before": "1", "after": "2"}]
    assert (said["changed"], said["restart"], said["problems"]) == (True, True, [])
    assert [*before, said["retired"]] == machine.old()
    assert machine.strays() == []


def test_upgrade_without_changes_does_not_create_a_base(
    machine: Machine, repository: Repository
) -> None:
    before = machine.state()
    said = document(machine.call("upgrade", "--yes", "--json"))
    assert (said["changed"], said["restart"], said["packages"]) == (False, False, [])
    assert machine.state() == before


def test_a_refusal_or_a_dry_run_changes_nothing(machine: Machine, repository: Repository) -> None:
    before = machine.state()
    for words in (("upgrade",), ("install", "other"), ("remove", "tool")):
        done = machine.call(*words, "--dry-run")
        assert done.returncode == 0, done.stderr
        assert " in a copy of root-base: not done: dry run" in done.stdout
        said = f"run apt-get {' '.join(words).replace('upgrade', 'dist-upgrade')} in a copy"
        assert said in done.stdout
    for name in ("--purge", "-y", "", "a\nb"):  # the package manager is not called
        done = machine.call("remove", "--yes", "--", name)
        assert done.returncode == 2
        assert "is not the name of a package" in done.stderr
    done = machine.call("upgrade")
    assert done.returncode == 2
    assert "'ephemeroot upgrade --yes'" in done.stderr
    done = machine.call("install", "--yes", "no-such-package")
    assert done.returncode == 1
    assert "no-such-package" in done.stderr
    assert machine.state() == before


def test_a_package_that_fails_to_install_leaves_the_base_unchanged(
    machine: Machine, repository: Repository
) -> None:
    repository.publish("tool", "2", {"opt/tool": "two\n"}, {"postinst": "exit 3"})
    before = machine.state()
    done = machine.call("upgrade", "--yes")
    assert done.returncode == 1
    assert "apt-get dist-upgrade ended with exit status" in done.stderr
    assert "the base is unchanged" in done.stderr
    assert machine.state() == before


def test_now_changes_the_running_root_as_well(machine: Machine, repository: Repository) -> None:
    repository.publish("other", "5", {"opt/other": "five\n"})
    done = machine.call("install", "--yes", "--now", "other")
    assert done.returncode == 0, done.stdout + done.stderr
    for root in (machine.path, machine.top / "root"):
        assert (root / "opt/other").read_text() == "five\n"
    done = machine.call("remove", "--yes", "--now", "other")
    assert done.returncode == 0, done.stdout + done.stderr
    for root in (machine.path, machine.top / "root"):
        assert not (root / "opt/other").exists()
    assert "other 5 → (removed)" in done.stdout


def test_reports_a_running_root_that_cannot_be_changed(
    machine: Machine, repository: Repository
) -> None:
    """The base has the change, as the user asked."""
    repository.publish("other", "5", {"opt/other": "five\n"}, {"preinst": "[ ! -e /opt/block ]"})
    (machine.top / "root/opt/block").touch()
    said = document(machine.call("install", "--yes", "--now", "--json", "other"), code=10)
    assert (machine.path / "opt/other").exists()
    assert "the base has the change" in said["problems"][0]


def test_names_persistent_configuration_whose_original_has_changed(
    machine: Machine, repository: Repository
) -> None:
    btrfsutil.create_subvolume(str(machine.top / "persistent"))
    (machine.top / "root/persistent").mkdir()
    configuration = machine.top / "root/etc/ephemeroot/ephemeroot.toml"
    text = configuration.read_text() + STORE.format(device=machine.disk.loop)
    configuration.write_text(text)
    repository.publish("tool", "2", {"opt/tool": "two\n", "etc/tool.conf": "default = 2\n"})
    said = document(machine.call("upgrade", "--yes", "--json"))
    assert said["configuration"] == ["/etc/tool.conf"]


def test_reboots_only_if_the_base_has_changed(machine: Machine, repository: Repository) -> None:
    asked = machine.run_folder / "reboot-was-asked-for"
    for name in ("systemctl", "reboot"):
        program = machine.usr / "upper/local/sbin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f'#!/bin/sh\necho "$0 $*" > /run/{asked.name}\n')
        program.chmod(0o755)
    for news in (False, True):
        if news:
            repository.publish("tool", "2", {"opt/tool": "two\n"})
        done = machine.call("upgrade", "--yes", "--reboot=if-needed")
        assert done.returncode == 0, done.stderr
        assert asked.exists() == news


def test_gives_a_hint_on_a_system_without_a_known_package_manager(machine: Machine) -> None:
    machine.create()
    done = machine.call("upgrade", "--yes")
    assert done.returncode == 1
    assert "no package manager is known for this system" in done.stderr
    assert "ephemeroot base run -- COMMAND" in done.stderr
