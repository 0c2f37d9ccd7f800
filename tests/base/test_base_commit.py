"""``ephemeroot base commit``: which changes of the running root it adds to the base, and which it
never adds.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from base_machine import Machine
from btrfs_image import btrfsutil, fresh_disk

pytestmark = pytest.mark.requires_loop


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine whose root a boot made from its base."""
    with fresh_disk(tmp_path, 512) as disk:
        made = Machine(disk, tmp_path / "machine")
        etc = made.top / "root/etc"
        (etc / "both").write_text("as installed\n")
        (etc / "old").write_text("as installed\n")
        (etc / "folder/deep").mkdir(parents=True)
        (etc / "folder/deep/file").write_text("as installed\n")
        made.create()
        # Wait until the root's creation time differs from its base's: the kernel records it in
        # whole seconds, with a clock that is up to one tick behind.
        time.sleep(1.02 - time.time() % 1)
        btrfsutil.delete_subvolume(str(made.top / "root"))
        btrfsutil.create_snapshot(str(made.path), str(made.top / "root"))
        yield made


def _upgrade(machine: Machine) -> None:
    done = machine.run("echo upgraded > /etc/both; rm /etc/old; echo new > /etc/new")
    assert done.returncode == 0, done.stderr


def test_commits_every_kind_of_change(machine: Machine) -> None:
    root = machine.top / "root"
    (root / "etc/new").write_text("new")
    (root / "etc/both").write_text("changed")
    (root / "etc/old").unlink()
    (root / "etc/link").symlink_to("new")
    (root / "opt/tool/bin").mkdir(parents=True)
    (root / "opt/tool/bin/tool").write_text("tool")
    (root / "opt/tool/bin/tool").chmod(0o755)
    (root / "etc/folder").chmod(0o700)
    os.chown(root / "etc/folder/deep/file", 12, 34)
    before = machine.state()
    dry = machine.base("commit", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert machine.state() == before
    done = machine.base("commit", "--yes")
    assert done.returncode == 0, done.stderr
    base = machine.path
    assert (base / "etc/new").read_text() == "new"
    assert (base / "etc/both").read_text() == "changed"
    assert not (base / "etc/old").exists()
    assert os.readlink(base / "etc/link") == "new"
    assert (base / "opt/tool/bin/tool").stat().st_mode & 0o777 == 0o755
    assert (base / "etc/folder").stat().st_mode & 0o777 == 0o700
    status = (base / "etc/folder/deep/file").stat()
    assert (status.st_uid, status.st_gid) == (12, 34)
    foreseen = [line.removesuffix(": not done: dry run") for line in dry.stdout.splitlines()]
    steps = [line for line in foreseen if line.startswith(("commit ", "remove "))]
    assert len(steps) >= 7
    assert [line for line in done.stdout.splitlines() if line in steps] == steps
    (old,) = machine.old()
    assert (machine.top / "old_bases" / old / "etc/old").exists()
    assert machine.strays() == []
    again = machine.base("commit", "--yes")
    assert again.returncode == 0, again.stderr
    assert machine.old() == [old]


def test_commits_only_the_named_paths(machine: Machine) -> None:
    root = machine.top / "root"
    (root / "opt/one/in").mkdir(parents=True)
    (root / "opt/one/in/a").write_text("a")
    (root / "opt/one/b").write_text("b")
    (root / "etc/new").write_text("new")
    (root / "etc/folder/deep/file").unlink()
    done = machine.base("commit", "--yes", "/opt/one/in", "/etc/folder/deep/file")
    assert done.returncode == 0, done.stderr
    assert (machine.path / "opt/one/in/a").read_text() == "a"
    assert not (machine.path / "opt/one/b").exists()
    assert not (machine.path / "etc/new").exists()
    assert not (machine.path / "etc/folder/deep/file").exists()


def test_does_not_overwrite_later_changes_of_the_base(machine: Machine) -> None:
    assert (
        machine.run("echo upgraded > /etc/both; rm /etc/old; echo new > /etc/new").returncode == 0
    )
    root = machine.top / "root"
    (root / "etc/both").write_text("mine\n")
    (root / "etc/old").write_text("mine\n")
    (root / "etc/new").write_text("mine\n")
    (root / "etc/other").write_text("mine\n")
    done = machine.base("commit", "--yes")
    assert done.returncode == 10, done.stderr
    for name in ("both", "old", "new"):
        assert f"/etc/{name} is not committed: the base has another version" in done.stderr
    assert (machine.path / "etc/both").read_text() == "upgraded\n"
    assert not (machine.path / "etc/old").exists()
    assert (machine.path / "etc/new").read_text() == "new\n"
    assert (machine.path / "etc/other").read_text() == "mine\n"
    done = machine.base("commit", "--yes", "--overwrite")
    assert done.returncode == 0, done.stderr
    for name in ("both", "old", "new"):
        assert (machine.path / "etc" / name).read_text() == "mine\n"


def test_does_not_undo_an_upgrade_of_the_base(machine: Machine) -> None:
    """A change that only the base has is not a change of the root."""
    assert (
        machine.run("echo upgraded > /etc/both; echo new > /etc/new; rm /etc/old").returncode == 0
    )
    (machine.top / "root/etc/other").write_text("mine")
    done = machine.base("commit", "--yes")
    assert done.returncode == 0, done.stderr
    assert (machine.path / "etc/both").read_text() == "upgraded\n"
    assert (machine.path / "etc/new").exists()
    assert not (machine.path / "etc/old").exists()
    assert (machine.path / "etc/other").read_text() == "mine"


SECRETS = (
    "etc/machine-id",
    "etc/ssh/ssh_host_ed25519_key",
    "etc/ssh/ssh_host_ed25519_key.pub",
    "var/lib/systemd/random-seed",
    "etc/wireguard/wg0.conf",
    "root/.ssh/id_ed25519",
    "root/.bash_history",
    "home/ann/.ssh/id_rsa",
)


@pytest.mark.parametrize("named", [False, True])
def test_never_commits_a_secret(machine: Machine, named: bool) -> None:
    root = machine.top / "root"
    for path in SECRETS:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("secret")
    (root / "home/ann/notes").write_text("notes")
    done = machine.base("commit", "--yes", "--overwrite", *(f"/{p}" for p in SECRETS if named))
    assert done.returncode == (10 if named else 0), done.stderr
    for path in SECRETS:
        assert not (machine.path / path).exists()
    assert (machine.path / "home/ann/notes").exists() is not named


def test_never_commits_content_of_the_store(machine: Machine) -> None:
    root = machine.top / "root"
    store = "/srv/store"
    toml = root / "etc/ephemeroot/ephemeroot.toml"
    toml.write_text(
        toml.read_text() + f'[persistence."{store}"]\ndirectories = ["/var/lib/kept"]\n'
    )
    for path in ("srv/store/x", "var/lib/kept/x", "var/lib/other/x"):
        (root / path).parent.mkdir(parents=True)
        (root / path).write_text("x")
    done = machine.base("commit", "--yes", "--exclude", "/etc/ephemeroot/**")
    assert done.returncode == 0, done.stderr
    assert not (machine.path / "srv/store/x").exists()
    assert not (machine.path / "var/lib/kept/x").exists()
    assert (machine.path / "var/lib/other/x").exists()
    done = machine.base("commit", "--yes", "/var/lib/kept/x")
    assert done.returncode == 2
    assert "/var/lib/kept is not part of the root" in done.stderr


def test_leaves_kernels_and_modules_to_the_package_manager(machine: Machine) -> None:
    modules = machine.top / "root/lib/modules/9.9.9/kernel"
    modules.mkdir(parents=True)
    done = machine.base("commit", "--yes")
    assert done.returncode == 0, done.stderr
    assert "kernels and their modules are installed by a package" in done.stderr
    assert not (machine.path / "lib/modules/9.9.9").exists()


def test_refuses_a_change_with_which_the_base_could_not_boot(machine: Machine) -> None:
    (machine.top / "root/etc/os-release").unlink()
    (machine.usr / "upper/lib").mkdir(exist_ok=True)
    (machine.top / "root/.autorelabel").write_text("")
    before = machine.state()
    done = machine.base("commit", "--yes")
    assert done.returncode == 1
    assert machine.state() == before
    assert machine.strays() == []


def test_requires_path_names_if_the_fresh_root_is_unknown(machine: Machine) -> None:
    root = machine.top / "root"
    (machine.path / "etc/edited").write_text("by hand")
    (root / "etc/new").write_text("new")
    (root / "etc/both").write_text("mine")
    done = machine.base("commit", "--yes")
    assert done.returncode == 2
    assert "cannot be distinguished" in done.stderr
    done = machine.base("commit", "--yes", "/etc/new", "/etc/both")
    assert done.returncode == 0, done.stderr
    assert (machine.path / "etc/edited").exists()
    assert (machine.path / "etc/both").read_text() == "mine"


def test_json_names_the_uncommitted_changes(machine: Machine) -> None:
    (machine.top / "root/etc/machine-id").write_text("1")
    (machine.top / "root/etc/new").write_text("1")
    done = machine.base("commit", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [one["path"] for one in document["left"]] == ["/etc/machine-id"]
    assert "commit /etc/new" in document["changes"]
