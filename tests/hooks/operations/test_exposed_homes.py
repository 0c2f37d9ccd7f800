"""Entries in homes at boot: files that only their directory protects stay private in the store.

The modes on both sides are generated, and the home is a directory, a link, or a btrfs subvolume;
the declarations are a user's, and system-wide ones below the home.
"""

from __future__ import annotations

import itertools
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import proof
from boot import Boot
from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.operations.volumes import Attach
from machine_tree import MAIN, ROOT, STORE, VOLUME, MachineTree

pytestmark = [pytest.mark.requires_root, pytest.mark.usefixtures("private_mounts")]

USER, GROUP = 1000, 1001
MODES = ("", "0700", "0710", "0750", "0755", "acl")
"""The mode of ~/.cred before the boot; an empty string means that it is missing. The ACL grants
access to one user, and to no group.
"""

WHOSE = {
    "users": '[persistence."/persistent".users.talyz]\n{key} = ["{path}"]\n',
    "system": '[persistence."/persistent"]\n{key} = ["/home/talyz/{path}"]\n',
}
TABLE = list(itertools.product(WHOSE, ("file", "directory"), MODES, MODES))


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Boot]:
    made = Boot(tmp_path / "boot")
    yield made
    made.unmount()


def operations(tmp_path: Path, declarations: str) -> list[Operation]:
    tree = MachineTree(tmp_path / "tree", ROOT + VOLUME + STORE)
    (tree.path / "home/talyz").mkdir(parents=True)
    text = ROOT + VOLUME
    if '[persistence."/persistent"]' not in declarations:
        text += '[persistence."/persistent"]\n'
    tree.write(MAIN, text + declarations)
    assert tree.errors() == []
    ours = [o for o in tree.plan().persist if "ephemeroot" not in getattr(o, "path", "")]
    return [o for o in ours if not isinstance(o, Attach)]


def make(place: Path, mode: str, user: int = USER, group: int = GROUP) -> None:
    place.mkdir(parents=True)
    for made in (place, *place.parents):
        if made.name in (".cred", "talyz"):
            os.chown(made, user, group)
    place.chmod(0o700 if mode == "acl" else int(mode, 8))
    if mode == "acl":
        subprocess.run(["setfacl", "-m", "u:4343:rwx", place], check=True)


def granted(place: Path) -> tuple[int, str]:
    """The mode, and the ACL without comments."""
    words = ["getfacl", "--absolute-names", "--omit-header", "--numeric", str(place)]
    acl = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return stat.S_IMODE(place.stat().st_mode), acl


def may_enter(place: Path, user: int, *groups: int) -> bool:
    """Whether a process of that user can read in the directory."""
    words = ["setpriv", f"--reuid={user}", f"--regid={groups[0] if groups else user}",
             "--clear-groups", "ls", str(place)]  # fmt: skip
    return subprocess.run(words, capture_output=True).returncode == 0


@pytest.mark.requires_program("setfacl")
@pytest.mark.parametrize(
    ("whose", "kind", "in_home", "in_store"), proof.sample(TABLE, 16, seed=1)
)  # fmt: skip
def test_a_parent_directory_has_the_permissions_of_its_counterpart(
    tmp_path: Path, boot: Boot, whose: str, kind: str, in_home: str, in_store: str
) -> None:
    key = "files" if kind == "file" else "directories"
    declared = operations(tmp_path, WHOSE[whose].format(key=key, path=".cred/token"))
    home, store = boot.root("home/talyz/.cred"), boot.store / "home/talyz/.cred"
    boot.root("home/talyz").mkdir(parents=True)
    os.chown(boot.root("home/talyz"), USER, GROUP)
    if in_home:
        make(home, in_home)
    if in_store:
        make(store, in_store)
    expected = granted(store) if in_store else granted(home) if in_home else None
    boot.persist(*declared)
    assert boot.problems() == []
    stored = boot.root("persistent/home/talyz/.cred")
    assert granted(home) == granted(stored)
    if expected is None:
        assert granted(stored)[0] == 0o700
    else:
        assert granted(stored) == expected
    for place in (home, stored):
        assert (place.stat().st_uid, place.stat().st_gid) == (USER, GROUP)


@pytest.mark.parametrize("whose", WHOSE)
@pytest.mark.parametrize("path", [".gnupg", ".ssh/keys/deep", ".local/share/keyrings"])
def test_a_path_without_a_counterpart_is_private_at_boot(
    tmp_path: Path, boot: Boot, whose: str, path: str
) -> None:
    boot.persist(*operations(tmp_path, WHOSE[whose].format(key="directories", path=path)))
    assert boot.problems() == []
    for top in ("home/talyz", "persistent/home/talyz"):
        outermost = boot.root(f"{top}/{path.partition('/')[0]}")
        assert stat.S_IMODE(outermost.stat().st_mode) == 0o700
        assert not may_enter(boot.root(f"{top}/{path}"), 4343)


@pytest.mark.parametrize("home", ["link", "subvolume"])
def test_a_home_that_is_a_link_or_a_subvolume(tmp_path: Path, home: str) -> None:
    boot = Boot(tmp_path / "boot", "btrfs" if home == "subvolume" else "tmpfs", megabytes=128)
    try:
        real = boot.root("srv/people/talyz" if home == "link" else "home/talyz")
        real.parent.mkdir(parents=True)
        if home == "link":
            boot.root("home").mkdir()
            boot.root("home/talyz").symlink_to("/srv/people/talyz")
            real.mkdir()
        else:
            words = ["btrfs", "-q", "subvolume", "create", str(real)]
            subprocess.run(words, check=True, capture_output=True)
        os.chown(real, USER, GROUP)
        make(real / ".cred", "0700")
        secret = real / ".cred/token"
        secret.write_text("secret")
        os.chown(secret, USER, GROUP)
        secret.chmod(0o644)
        path = {"link": "srv/people/talyz", "subvolume": "home/talyz"}[home]
        text = f'[persistence."/persistent"]\nfiles = ["/{path}/.cred/token"]\n'
        boot.persist(*operations(tmp_path, text))
        assert boot.problems() == []
        stored = boot.root(f"persistent/{path}/.cred")
        assert (stored / "token").read_text() == "secret"
        assert stat.S_IMODE(stored.stat().st_mode) == 0o700
        assert not may_enter(stored, 4343)
    finally:
        boot.unmount()
