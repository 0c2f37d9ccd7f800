"""Files that their directory protects stay private: modes of parent directories, in the home and in
the store.
"""

from __future__ import annotations

import itertools
import json

import pytest

import ordinary_user
import proof
from ordinary_user import HOME, PROGRAM, STORE, OrdinaryUser

pytestmark = ordinary_user.NEEDS

MODES = ("", "0700", "0710", "0755", "0770")
"""The modes of a parent directory; an empty string means that it is missing."""
DECLARED = {
    "file": 'files = ["{0}/token"]',
    "mounted": 'directories = ["{0}/inbox"]',
    "linked": 'directories = [{{ directory = "{0}/inbox", method = "symlink" }}]',
}
ANOTHER = "setpriv --reuid=4343 --regid=4343 --clear-groups"


def modes(user: OrdinaryUser, *places: str) -> list[str]:
    found = user.sh(f"stat -c %04a {' '.join(places)}").stdout.split()
    assert len(found) == len(places)
    return found


@pytest.mark.parametrize(
    ("kind", "prefix"),
    proof.sample([(kind, prefix) for kind in DECLARED for prefix in ("", "dotfiles/")], 3),
)
def test_a_new_directory_takes_the_mode_of_its_counterpart(
    user: OrdinaryUser, kind: str, prefix: str
) -> None:
    cases = {
        f".{number}/deep": (in_home, in_store)
        for number, (in_home, in_store) in enumerate(itertools.product(MODES, MODES))
    }
    lines = ['[persistence."STORE"]', f"remove-prefix-directory = {str(bool(prefix)).lower()}"]
    lists: dict[str, list[str]] = {}
    for path, (in_home, in_store) in cases.items():
        for mode, top in ((in_home, HOME), (in_store, f"{STORE}/{prefix}")):
            if mode:
                user.sh(f"umask 077; mkdir -p {top}/{path}; chmod {mode} {top}/{path}")
        key, _, item = DECLARED[kind].format(prefix + path).partition(" = ")
        lists.setdefault(key, []).append(item.strip("[]"))
    user.declare("\n".join(lines + [f"{k} = [{', '.join(v)}]" for k, v in lists.items()]))
    user.sh(f"umask 022; exec {PROGRAM} home apply")
    expected: dict[str, str] = {}
    for path, (in_home, in_store) in cases.items():
        found = modes(user, f"{HOME}/{path}", f"{STORE}/{prefix}{path}")
        assert found == [in_home or in_store or "0700", in_store or in_home or "0700"], path
        ours, other = (int(mode, 8) for mode in found)
        if ours & ~other:
            expected[f"{HOME}/{path}"] = f"{ours & other:04o}"
        if other & ~ours:
            expected[f"{STORE}/{prefix}{path}"] = f"{ours & other:04o}"
    assert exposed(user) == expected
    # Each exposed directory is named with the command that repairs it; run it.
    shown = user.home("status")
    for path, mode in expected.items():
        assert f"chmod {mode} {path}" in shown.stdout + shown.stderr
        user.sh(f"chmod {mode} {path}")
    assert exposed(user) == {}


def exposed(user: OrdinaryUser) -> dict[str, str]:
    content = json.loads(user.home("status", "--json").stdout)
    return {one["path"]: one["right-mode"] for one in content["exposed"]}


def test_another_user_reads_nothing_through_the_store(user: OrdinaryUser) -> None:
    user.sh("mkdir -m 0700 .cred .mail")
    user.declare('[persistence."STORE"]\nfiles = [".cred/token"]\ndirectories = [".mail/inbox"]\n')
    user.sh(f"umask 022; {PROGRAM} home apply")
    user.sh("umask 022; echo secret > .cred/token; echo letter > .mail/inbox/1")
    # The store's own directory is open to all users: only the parent directories keep others out.
    user.as_root(f"chmod 0755 /mnt/persistent /mnt/persistent/home {STORE}")
    for path in (f"{HOME}/.cred/token", f"{STORE}/.cred/token", f"{STORE}/.mail/inbox/1"):
        assert user.as_root(f"{ANOTHER} cat {path} 2>&1 || true").endswith("Permission denied\n")


@pytest.mark.parametrize("name", [".ssh", ".gnupg"])
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_path_without_a_counterpart_is_private(user: OrdinaryUser, name: str, kind: str) -> None:
    entry = f'files = ["{name}/config"]' if kind == "file" else f'directories = ["{name}"]'
    user.declare(f'[persistence."STORE"]\n{entry}\n')
    user.sh(f"umask 022; {PROGRAM} home apply")
    assert modes(user, f"{HOME}/{name}", f"{STORE}/{name}") == ["0700", "0700"]


@pytest.mark.requires_program("setfacl")
def test_the_mask_of_an_acl_is_not_granted_to_the_group(user: OrdinaryUser) -> None:
    """With an ACL, the group bits are the maximum that the ACL grants, acl(5)."""
    user.sh("mkdir -m 0700 .cred; setfacl -m u:4343:rwx .cred")
    assert modes(user, f"{HOME}/.cred") == ["0770"]
    user.declare('[persistence."STORE"]\nfiles = [".cred/token"]\n')
    user.sh(f"umask 022; {PROGRAM} home apply")
    assert modes(user, f"{STORE}/.cred") == ["0700"]
    # The user in the ACL cannot enter the store either.
    assert exposed(user) == {f"{HOME}/.cred": "0700"}
    user.sh(f"setfacl -m u:4343:rwx {STORE}/.cred")
    assert exposed(user) == {}, "both grant the same"
    user.sh(f"setfacl -m g::rx {STORE}/.cred")
    assert f"{STORE}/.cred" in exposed(user)
