"""Every file that a boot creates in the new root and in the stores has the label that the policy
assigns to its final path. The policy is Debian's. Labels are attributes, and need no SELinux in the
kernel.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from boot import STORE, Boot, directory, parent
from checkout import CHECKOUT
from ephemeroot.hooks.operations.labels import RESTORED, Label
from ephemeroot.machine.libselinux import LibSelinux
from ephemeroot.wipers import skeleton
from machine_tree import ROOT, VOLUME, MachineTree

POLICY = CHECKOUT / ".venv/selinux"
ATTRIBUTE = "security.selinux"

pytestmark = [
    pytest.mark.requires_loop,
    pytest.mark.skipif(not POLICY.exists(), reason="needs SELinux's policy: run tools/setup test"),
]

DECLARATIONS = """\
[persistence."/persistent"]
directories = [
  "/var/log", "/var/lib/systemd/coredump", "/srv/www/deep/below", "/root",
  { directory = "/var/spool/cron", method = "symlink" },
  { directory = "/var/lib/NetworkManager", initial = "empty" },
  { directory = "/usr/local", method = "overlay" },
]
files = [
  "/etc/machine-id", "/etc/shadow", "/etc/ssh/ssh_host_ed25519_key", "/etc/missing",
  { file = "/etc/adjtime", method = "copy" },
  { file = "/etc/resolv.conf", method = "symlink" },
]
[persistence."/persistent".users.ada]
directories = [".ssh", "Documents/work"]
files = [".bash_history"]
"""
IN_STORE = ("etc/shadow", "etc/ssh/ssh_host_ed25519_key", "etc/adjtime", "etc/resolv.conf")


@pytest.fixture(scope="module")
def policy() -> LibSelinux:
    return LibSelinux(POLICY / "file_contexts")


def machine(folder: Path) -> MachineTree:
    """A machine with the policy."""
    tree = MachineTree(folder, ROOT + VOLUME + DECLARATIONS)
    tree.write("etc/selinux/config", "SELINUX=enforcing\nSELINUXTYPE=default\n")
    for path in POLICY.iterdir():
        tree.write(f"etc/selinux/default/contexts/files/{path.name}", path.read_text())
    return tree


def label_of(path: Path) -> str | None:
    try:
        return os.getxattr(path, ATTRIBUTE, follow_symlinks=False).rstrip(b"\0").decode()
    except OSError:
        return None


def mislabelled(top: Path, policy: LibSelinux) -> dict[str, tuple[str | None, str | None]]:
    """The files of the filesystem at *top* whose label differs from the policy's, with
    both labels.
    """
    found: dict[str, tuple[str | None, str | None]] = {}
    for folder, names, files in os.walk(top):
        for name in (".", *names, *files):
            path = Path(folder, name)
            final = f"/{path.relative_to(top)}" if path != top else "/"
            wanted = policy.look_up(final, stat.S_IFMT(path.lstat().st_mode))
            if wanted is not None and label_of(path) != wanted:
                found[final] = (label_of(path), wanted)
    return found


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Path]:
    """A place to look at the files below the mounts of a root."""
    place = tmp_path / "bare"
    place.mkdir()
    yield place
    subprocess.run(["umount", "-l", place], check=False, capture_output=True)


def give(path: Path, label: str | None) -> None:
    assert label is not None
    os.setxattr(path, ATTRIBUTE, label.encode() + b"\0", follow_symlinks=False)


def test_every_created_file_has_the_label_of_its_final_path(
    tmp_path: Path, bare: Path, policy: LibSelinux
) -> None:
    boot = Boot(tmp_path / "boot", "btrfs", 128)
    operations = machine(tmp_path / "machine").plan().persist
    top = os.open(boot.target, os.O_RDONLY)
    skeleton.make(top)
    skeleton.make_mount_point(top, STORE)
    os.close(top)
    for name in IN_STORE:
        path = boot.store / name
        for folder in reversed([path, *list(path.parents)[:2]][1:]):
            if not folder.exists():
                folder.mkdir()
                final = f"/{folder.relative_to(boot.store)}"
                give(folder, policy.look_up(final, stat.S_IFDIR))
        path.write_text("content")
        give(path, policy.look_up(f"/{name}", stat.S_IFREG))
    give(boot.store, policy.look_up("/", stat.S_IFDIR))
    try:
        boot.persist(*operations[1:])
        assert boot.problems() == []
        subprocess.run(["mount", "--bind", boot.target, bare], check=True)
        assert mislabelled(bare, policy) == {}
        assert mislabelled(boot.root(STORE), policy) == {}
    finally:
        boot.unmount()


@pytest.mark.requires_program("systemd-tmpfiles")
def test_a_root_in_memory_is_left_to_systemd_tmpfiles(tmp_path: Path) -> None:
    """The kernel labels a tmpfs again when the policy is loaded."""
    boot = Boot(tmp_path / "boot", "tmpfs")
    odd = ("a \\ b", '"c"', "100%d", "*", "[x]", "y?")
    names = {f"/srv/{name}": "x:y:z:s0" for name in odd}
    try:
        binds = [directory(name) for name in names]
        boot.persist(parent("/srv"), *binds, Label(directories=names))
        settings = boot.run / RESTORED
        lines = settings.read_text().splitlines()
        assert lines[0] == 'z "/" - - -'
        assert len(lines) == len(names) + 1
        # It reads names literally: each name gets a mode that it does not have.
        settings.write_text(settings.read_text().replace("- - -", "0700 - -"))
        done = subprocess.run(
            ["systemd-tmpfiles", "--create", f"--root={boot.target}", settings],
            capture_output=True, text=True,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert {oct(boot.root(name).stat().st_mode & 0o777) for name in names} == {"0o700"}
    finally:
        boot.unmount()
