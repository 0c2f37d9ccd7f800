"""The cases with which impermanence and preservation test their modules, adapted to Ephemeroot.

Each is a configuration, compiled against a machine, and the boot code on real mounts. Their checks
of units and of NixOS itself have no counterpart here; ``vm-tests/test_persistence.py`` has the
cases that need a whole machine.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ephemeroot.config import InvalidConfiguration
from ephemeroot.hooks import persist
from ephemeroot.hooks.cmdline import CommandLine
from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.operations.volumes import MountVolume, Store
from ephemeroot.hooks.plan import Plan
from ephemeroot.hooks.report import Report
from ephemeroot.hooks.stage import Stage
from ephemeroot.linux.units import escape_path
from machine_tree import DEVICE, GROUP, IDENTITY, MAIN, PASSWD, ROOT, MachineTree

pytestmark = [pytest.mark.requires_root, pytest.mark.usefixtures("private_mounts")]

USERS = {
    "me": (2001, "/althome/me"), "you": (2002, "/home/you"), "alex": (2003, "/home/alex"),
    "benny": (2004, "/home/benny"), "cat": (2005, "/home/cat"), "del": (2006, "/home/del"),
    "alice": (2007, "/home/wonderland"), "butz": (2008, "/home/butz"),
    "bird": (2009, "/home/bird"), "fish": (2010, "/home/fish"),
}  # fmt: skip


class Site:
    """A machine with stores on separate volumes, booted as often as a test needs."""

    def __init__(self, base: Path, configuration: str, stores: list[str]) -> None:
        self.stores = stores
        self.tree = MachineTree(base / "machine", None)
        accounts = [f"{n}:x:{uid}:{uid}::{home}:/bin/sh\n" for n, (uid, home) in USERS.items()]
        self.tree.write("etc/passwd", PASSWD + "".join(accounts))
        groups = [f"{name}:x:{uid}:\n" for name, (uid, _) in USERS.items()]
        self.tree.write("etc/group", GROUP + "".join(groups))
        volumes = ""
        for store in stores:
            self.tree.mark(store.strip("/"))
            volumes += (
                f'[[volumes]]\nmount-point = "{store}"\ndevice = "{DEVICE}"\ntype = "btrfs"\n'
                f'options = ["subvol={store.strip("/")}"]\n'
            )
        self.tree.write(MAIN, ROOT + volumes + configuration)
        self.run = base / "run/ephemeroot"
        self.target = base / "sysroot"
        self.target.mkdir()
        self._mount(self.target)
        for store in stores:
            place = self._volume(store)
            place.mkdir(parents=True)
            self._mount(place)
            marker = place / ".ephemeroot-store"
            marker.write_text(json.dumps({"version": 1, "id": IDENTITY}))

    def _volume(self, store: str) -> Path:
        return self.run / "volumes" / escape_path(store)

    @staticmethod
    def _mount(place: Path) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)

    def boot(self) -> None:
        """Run the persistence stage. Every operation must succeed."""
        wipe: list[Operation] = []
        for store in self.stores:
            name = escape_path(store)
            wipe.append(MountVolume(mount_point=store, name=name, device="none", type="tmpfs"))
            wipe.append(Store(path=store, volume=name, id=IDENTITY))
        plan = Plan(wipe=wipe, persist=self.tree.plan().persist)
        report = Report("persist", str(self.run / "boot.json"), "boot", boot=False)
        stage = Stage(
            plan, CommandLine(""), report,
            target=str(self.target), run=str(self.run), boot_id="boot",
        )  # fmt: skip
        try:
            report.finish(persist.run(stage))
        finally:
            stage.close()
        assert json.loads((self.run / "boot.json").read_text())["persist"]["problems"] == []

    def reboot(self, wiped: bool = True) -> None:
        for store in self.stores:
            place = str(self.target) + store
            subprocess.run(["mount", "--bind", place, self._volume(store)], check=True)
        if wiped:
            self.power_off()
            (self.run.parent / "mount/utab").unlink(missing_ok=True)
            self._mount(self.target)
        self.boot()

    def power_off(self) -> None:
        subprocess.run(["umount", "-R", "-l", self.target], check=True)

    def at(self, path: str) -> Path:
        return self.target / path.lstrip("/")

    def stat(self, path: str) -> tuple[str, int, int]:
        """Mode and owner, in the format of the tests of both projects."""
        status = self.at(path).stat()
        return f"{stat.S_IMODE(status.st_mode):04o}", status.st_uid, status.st_gid

    def is_same(self, path: str, store: str) -> bool:
        return os.path.samefile(self.at(path), self.at(store + path))


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[list[Site]]:
    made: list[Site] = []
    yield made
    for site in made:
        site.power_off()


def uid(name: str) -> int:
    return USERS[name][0]


def owned(name: str, mode: str) -> tuple[str, int, int]:
    number = 0 if name == "root" else uid(name)
    return mode, number, number


def test_impermanence_version_1(tmp_path: Path, sites: list[Site]) -> None:
    site = Site(tmp_path, """
[persistence."/abc"]
directories = [
  { directory = "/foo/bar/bazz/luhrmann", mode = "0777", user = "del", group = "del" },
  { directory = "/foo/bar/bazz", mode = "0700", user = "benny", group = "benny" },
  { directory = "/one/two/three", mode = "0755", user = "cat", group = "cat" },
]
[persistence."/abc".users.me]
home = "/althome/me"
directories = [{ directory = "dotfiles", mode = "0700" }]
[persistence."/def"]
directories = [
  { directory = "/foo/bar/bazz/quux", mode = "0755", user = "alex", group = "alex" },
  { directory = "/one/two/three/four", mode = "0750", user = "del", group = "del" },
]
files = ["/one/two/three/go"]
[persistence."/def".users.me]
home = "/althome/me"
files = [".merc"]
[persistence."/def".users.you]
files = [{ file = ".yourc", parent-directory = { mode = "0750" } }]
""", ["/abc", "/def"])  # fmt: skip
    sites.append(site)
    expected = {
        "/foo": owned("root", "0755"),
        "/foo/bar": owned("root", "0755"),
        "/foo/bar/bazz": owned("benny", "0700"),
        "/foo/bar/bazz/luhrmann": owned("del", "0777"),
        "/foo/bar/bazz/quux": owned("alex", "0755"),
        "/one/two/three": owned("cat", "0755"),
        "/one/two/three/four": owned("del", "0750"),
        "/althome/me": owned("me", "0700"),
        "/althome/me/dotfiles": owned("me", "0700"),
        "/home/you": owned("you", "0750"),
        "/abc/foo": owned("root", "0755"),
        "/abc/foo/bar": owned("root", "0755"),
        "/abc/foo/bar/bazz": owned("benny", "0700"),
        "/abc/foo/bar/bazz/luhrmann": owned("del", "0777"),
        "/abc/one/two/three": owned("cat", "0755"),
        "/abc/althome/me": owned("me", "0700"),
        "/abc/althome/me/dotfiles": owned("me", "0700"),
        "/def/foo": owned("root", "0755"),
        "/def/foo/bar": owned("root", "0755"),
        "/def/foo/bar/bazz": owned("benny", "0700"),
        "/def/foo/bar/bazz/quux": owned("alex", "0755"),
        "/def/one/two/three/four": owned("del", "0750"),
        "/def/home/you": owned("you", "0750"),
    }
    site.boot()
    for _ in ("first boot", "second boot", "the stage once more"):
        assert {path: site.stat(path) for path in expected} == expected
        assert site.is_same("/foo/bar/bazz/luhrmann", "/abc")
        assert site.is_same("/foo/bar/bazz/quux", "/def")
        for link in ("/althome/me/.merc", "/home/you/.yourc", "/one/two/three/go"):
            assert os.readlink(site.at(link)) == f"/def{link}"
        site.reboot(wiped=_ == "first boot")


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ('directories = ["/same"]', 'directories = ["/same"]', "/same is declared twice"),
        ('files = ["/same/file"]', 'files = ["/same/file"]', "/same/file is declared twice"),
        ('users.me.files = ["a"]', 'users.me.files = ["a"]', "/althome/me/a is declared twice"),
        ('users.me.directories = ["a"]', 'users.me.directories = ["a"]', "is declared twice"),
        ('directories = ["/abc/inside"]', "", "is inside the store /abc"),
        ('directories = ["../foo"]', "", "not an absolute path|contains '..'"),
    ],
)
def test_impermanences_assertions(
    tmp_path: Path, sites: list[Site], first: str, second: str, message: str
) -> None:
    stores = f'[persistence."/abc"]\n{first}\n[persistence."/def"]\n{second}\n'
    sites.append(Site(tmp_path, stores, ["/abc", "/def"]))
    reasons = " ".join(problem.reason for problem in sites[0].tree.errors())
    assert re.search(message, reasons), reasons
    with pytest.raises(InvalidConfiguration):
        sites[0].tree.compilation()


def test_a_similar_name_is_not_a_prefix(tmp_path: Path, sites: list[Site]) -> None:
    site = Site(tmp_path, """
[persistence."/1"]
directories = ["/abc/def/ghi"]
[persistence."/12"]
directories = ["/abc/def"]
[persistence."/123"]
directories = ["/abc"]
""", ["/1", "/12", "/123"])  # fmt: skip
    sites.append(site)
    site.boot()
    assert site.is_same("/abc/def/ghi", "/1")
    assert site.is_same("/abc/def", "/12")
    assert site.is_same("/abc", "/123")


def test_impermanence_today(tmp_path: Path, sites: list[Site]) -> None:
    site = Site(tmp_path, """
[persistence."/persistent"]
files = [
  "/etc/machine-id",
  "/etc/ssh/ssh_host_ed25519_key",
  { file = "/etc/ssh/ssh_host_ed25519_key.pub", method = "symlink" },
]
directories = [
  { directory = "/etc/nixos", mode = "0700", user = "bird", group = "users" },
  "/var/log", "/var/lib/bluetooth", "/var/lib/systemd/coredump",
  "/etc/NetworkManager/system-connections",
]
[persistence."/persistent".users.bird]
directories = [
  "Downloads", "Music", ".local/share/subdir",
  { directory = "owned/by/other/user", user = "fish" },
]
files = [".config/persistence_test"]
""", ["/persistent"])  # fmt: skip
    sites.append(site)
    site.boot()
    assert site.stat("/etc/nixos") == ("0700", uid("bird"), 100)
    keys = [f"/etc/ssh/ssh_host_ed25519_key{end}" for end in ("", ".pub")]
    for path in (*keys, "/home/bird/.config/persistence_test"):
        assert os.readlink(site.at(path)) == f"/persistent{path}"
        # Programs that follow the link while the file does not exist yet, such as sshd-keygen.
        site.at(f"/persistent{path}").write_text(f"made for {path}")
    identity = site.at("/etc/machine-id").read_text()
    for _ in range(2):
        for path in ("/var/log", "/etc/NetworkManager/system-connections", "/home/bird/Music"):
            assert site.is_same(path, "/persistent")
        assert site.stat("/home/bird/owned/by/other/user")[1] == uid("fish")
        for path in ("owned", "owned/by", "owned/by/other", ".local", ".local/share"):
            assert site.stat(f"/home/bird/{path}") == owned("bird", "0700")
            assert site.stat(f"/persistent/home/bird/{path}") == owned("bird", "0700")
        assert site.stat("/home/bird") == owned("bird", "0700")
        site.reboot()
        # Existing files are now bound, unless the declaration requires a link.
        for path in (keys[0], "/home/bird/.config/persistence_test"):
            assert site.is_same(path, "/persistent")
            assert not site.at(path).is_symlink()
        assert site.at(keys[1]).is_symlink()
        assert site.at(keys[0]).read_text() == f"made for {keys[0]}"
        assert site.at("/etc/machine-id").read_text() == identity


def test_preservation_basic(tmp_path: Path, sites: list[Site]) -> None:
    site = Site(tmp_path, """
[persistence."/state"]
mount-options = ["x-foo"]
directories = ["/var/lib/someservice", "/var/log"]
files = [{ file = "/etc/wpa_supplicant.conf", method = "symlink" }]
[persistence."/state".users.alice]
directories = [".rabbit_hole"]
[persistence."/state".users.butz]
mount-options = ["x-bar"]
files = [
  { file = ".config/foo", mode = "0600" }, "bar",
  { file = "yay_userspace_mount_options", mount-options = ["x-baz"] },
  { file = ".toplevel_symlink", method = "symlink" },
]
directories = [
  "unshaved_yaks", "foo/bar/baz", { directory = "symlinked_user_dir", method = "symlink" },
]
""", ["/state"])  # fmt: skip
    sites.append(site)
    home = site._volume("/state") / "home"
    home.mkdir()
    for folder in (home / "butz", home / "butz/.config"):
        folder.mkdir(mode=0o700)
        os.chown(folder, uid("butz"), uid("butz"))
    for name in (".config/foo", "bar", "yay_userspace_mount_options"):
        (home / "butz" / name).write_text("kept")
    site.boot()
    site.reboot()
    assert site.at("/home/wonderland/.rabbit_hole").is_mount()
    assert site.stat("/home/wonderland/.rabbit_hole") == owned("alice", "0755")
    for path in ("foo", "foo/bar"):
        assert site.stat(f"/home/butz/{path}") == owned("butz", "0700")
    assert site.stat("/state/home/butz") == site.stat("/home/butz") == owned("butz", "0700")
    for name in ("symlinked_user_dir", ".toplevel_symlink"):
        assert os.readlink(site.at(f"/home/butz/{name}")) == f"/state/home/butz/{name}"
    assert site.at("/state/home/butz/symlinked_user_dir").is_dir()
    assert site.at("/home/butz/bar").read_text() == "kept"
    table = (site.run.parent / "mount/utab").read_text().splitlines()
    (line,) = [row for row in table if "TARGET=/home/butz/yay_userspace_mount_options " in row]
    assert set(line.rpartition("OPTS=")[2].split(",")) == {"x-foo", "x-bar", "x-baz"}


def test_preservation_firstboot(tmp_path: Path, sites: list[Site]) -> None:
    site = Site(tmp_path, """
[persistence."/state"]
files = [{ file = "/etc/machine-id", first-boot = true }]
""", ["/state"])  # fmt: skip
    sites.append(site)
    site.boot()
    # machine-id(5): the content that makes systemd treat this as a first boot, and write its own
    assert site.at("/etc/machine-id").read_text() == "uninitialized\n"
    assert not site.at("/state/etc/machine-id").exists()
