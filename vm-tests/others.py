"""The cases with which impermanence and preservation test their modules, adapted to Debian.

From impermanence (nix-community/impermanence): `checks` of its flake, and the machine with which
its first version was tested. From preservation (nix-community/preservation): tests/basic.nix, whose
store is an ext4 on a separate disk. Their checks of NixOS itself have no counterpart;
`tests/hooks/test_others_cases.py` has their checks of error messages.
"""

from __future__ import annotations

import json
from typing import Any

from vm.machine import Machine

STATE_UUID = "5f0d3c1b-6a2e-4f7d-9b8c-0e1f2a3b4c5d"
STORES = ("/state", *(f"/others/{name}" for name in ("abc", "def", "1", "12", "123")))

HOMES = {
    "alice": "/home/wonderland", "butz": "/home/butz", "bird": "/home/bird", "fish": "/home/fish",
    "me": "/home/me", "you": "/home/you", "alex": "/home/alex", "benny": "/home/benny",
    "cat": "/home/cat", "del": "/home/del",
}  # fmt: skip

PREPARE = "".join(
    f"useradd --uid {uid} --create-home --home-dir {home} --shell /bin/bash {user}\n"
    for uid, (user, home) in enumerate(HOMES.items(), 2001)
) + "".join(f"mkdir -p {store}\n" for store in STORES)
"""The files that a Debian needs for these cases."""

SYSTEM_DIRECTORIES = """\
  { directory = "/etc/nixos", mode = "0700", user = "bird", group = "users" },
  "/var/lib/bluetooth", "/var/lib/nixos", "/var/lib/systemd/coredump",
  "/etc/NetworkManager/system-connections",
"""

CONFIGURATION = f"""\
[persistence."/persistent".users.bird]
directories = [
  "Downloads", "Music", "Pictures", "Documents", "Videos", ".local/share/subdir",
  {{ directory = "owned/by/other/user", user = "fish" }},
]
files = [".config/persistence_test"]

[[volumes]]
mount-point = "/state"
device = "UUID={STATE_UUID}"
type = "ext4"
timeout = "20s"

[persistence."/state"]
mount-options = ["x-foo"]
directories = ["/var/lib/someservice"]
files = [{{ file = "/etc/wpa_supplicant.conf", method = "symlink" }}]

[persistence."/state".users.alice]
directories = [".rabbit_hole"]

[persistence."/state".users.butz]
mount-options = ["x-bar"]
files = [
  {{ file = ".config/foo", mode = "0600" }}, "bar",
  {{ file = ".symlinks/baz", method = "symlink" }},
  {{ file = "yay_userspace_mount_options", mount-options = ["x-baz"] }},
  {{ file = ".toplevel_symlink", method = "symlink" }},
]
directories = [
  "unshaved_yaks", "foo/bar/baz", {{ directory = "symlinked_user_dir", method = "symlink" }},
]

[persistence."/others/abc"]
directories = [
  {{ directory = "/foo/bar/bazz/luhrmann", mode = "0777", user = "del", group = "del" }},
  {{ directory = "/foo/bar/bazz", mode = "0700", user = "benny", group = "benny" }},
  {{ directory = "/one/two/three", mode = "0755", user = "cat", group = "cat" }},
]
[persistence."/others/abc".users.me]
home = "/althome/me"
directories = [{{ directory = "dotfiles", mode = "0700" }}]
[persistence."/others/def"]
directories = [
  {{ directory = "/foo/bar/bazz/quux", mode = "0755", user = "alex", group = "alex" }},
  {{ directory = "/one/two/three/four", mode = "0750", user = "del", group = "del" }},
]
files = ["/one/two/three/go"]
[persistence."/others/def".users.me]
home = "/althome/me"
files = [".merc"]
[persistence."/others/def".users.you]
files = [{{ file = ".yourc", parent-directory = {{ mode = "0750" }} }}]

[persistence."/others/1"]
directories = ["/pre/abc/def/ghi"]
[persistence."/others/12"]
directories = ["/pre/abc/def"]
[persistence."/others/123"]
directories = ["/pre/abc"]
"""

BOUND = {
    "/persistent": (
        "/etc/nixos", "/var/log", "/var/lib/bluetooth", "/var/lib/nixos",
        "/var/lib/systemd/coredump", "/etc/NetworkManager/system-connections",
        *(f"/home/bird/{name}" for name in (
            "Downloads", "Music", "Pictures", "Documents", "Videos", ".local/share/subdir",
            "owned/by/other/user",
        )),
    ),
    "/state": (
        "/var/lib/someservice", "/home/wonderland/.rabbit_hole", "/home/butz/unshaved_yaks",
        "/home/butz/foo/bar/baz",
    ),
    "/others/abc": ("/foo/bar/bazz", "/foo/bar/bazz/luhrmann", "/one/two/three",
                    "/althome/me/dotfiles"),
    "/others/def": ("/foo/bar/bazz/quux", "/one/two/three/four"),
    "/others/1": ("/pre/abc/def/ghi",),
    "/others/12": ("/pre/abc/def",),
    "/others/123": ("/pre/abc",),
}  # fmt: skip
"""Directories that must be the same inode as in their store."""

FILES = {
    "/persistent": {"/home/bird/.config/persistence_test": "bird"},
    "/state": {f"/home/butz/{name}": "butz" for name in (".config/foo", "bar",
                                                         "yay_userspace_mount_options")},
    "/others/def": {"/althome/me/.merc": "me", "/home/you/.yourc": "you"},
}  # fmt: skip
"""Files that do not exist yet, and the user who writes to them."""

LINKS = {
    "/state": {"/etc/wpa_supplicant.conf": "root", "/home/butz/.symlinks/baz": "butz",
               "/home/butz/.toplevel_symlink": "butz"},
    # Its directory is in another store, in which the first boot's link persists.
    "/others/def": {"/one/two/three/go": "cat"},
}  # fmt: skip
"""Files that stay links when they exist."""

PERMISSIONS = {
    "/etc/nixos": "bird:users 700",
    "/home/bird": "bird:bird 700",
    # A missing parent in a home is private here; both projects make it 0755.
    **{f"/home/bird/{name}": "bird:bird 700" for name in ("owned", "owned/by", "owned/by/other",
                                                          ".local", ".local/share")},
    "/home/bird/Downloads": "bird:bird 755",
    "/home/bird/owned/by/other/user": "fish:bird 755",
    "/home/wonderland": "alice:alice 700",
    "/home/wonderland/.rabbit_hole": "alice:alice 755",
    "/home/butz": "butz:butz 700",
    **{f"/home/butz/{name}": "butz:butz 700" for name in ("foo", "foo/bar", ".symlinks")},
    **{f"/home/butz/{name}": "butz:butz 755" for name in ("foo/bar/baz", "symlinked_user_dir")},
    "/foo": "root:root 755",
    "/foo/bar": "root:root 755",
    "/foo/bar/bazz": "benny:benny 700",
    "/foo/bar/bazz/luhrmann": "del:del 777",
    "/foo/bar/bazz/quux": "alex:alex 755",
    "/one/two/three": "cat:cat 755",
    "/one/two/three/four": "del:del 750",
    "/althome/me": "me:me 700",
    "/althome/me/dotfiles": "me:me 700",
    "/home/you": "you:you 750",
}  # fmt: skip
IN_STORES = {
    "/persistent/home/bird": "bird:bird 700",
    "/persistent/home/bird/owned/by/other": "bird:bird 700",
    "/state/home/butz": "butz:butz 700",
    "/state/home/butz/foo": "butz:butz 700",
    "/others/abc/foo/bar": "root:root 755",
    "/others/abc/foo/bar/bazz": "benny:benny 700",
    "/others/abc/one/two/three": "cat:cat 755",
    "/others/abc/althome/me": "me:me 700",
    "/others/def/foo": "root:root 755",
    "/others/def/foo/bar": "root:root 755",
    "/others/def/foo/bar/bazz": "benny:benny 700",
    "/others/def/home/you": "you:you 750",
}

_LOOK = """\
import grp, json, os, pwd, stat, sys
found = {}
users = {user.pw_uid: user.pw_name for user in pwd.getpwall()}
groups = {group.gr_gid: group.gr_name for group in grp.getgrall()}
for path in json.loads(sys.argv[1]):
    try:
        s = os.stat(path)
        link = os.readlink(path) if os.path.islink(path) else ""
    except FileNotFoundError:
        found[path] = None
        continue
    who = f"{users.get(s.st_uid, s.st_uid)}:{groups.get(s.st_gid, s.st_gid)}"
    found[path] = [f"{who} {stat.S_IMODE(s.st_mode):o}", f"{s.st_dev}:{s.st_ino}", link]
print(json.dumps(found))
"""


def look(machine: Machine, paths: list[str]) -> dict[str, Any]:
    """Owner and mode, device and inode, and the target of a link; None for a missing file."""
    machine.write("/run/look.py", _LOOK)
    asked = json.dumps(paths).replace("'", "'\\''")
    found: dict[str, Any] = json.loads(machine.run(f"python3 /run/look.py '{asked}'").out)
    return found


def check_directories(machine: Machine) -> None:
    """Check every declared directory after each boot, as the tests of both projects do."""
    pairs = {path: store + path for store, paths in BOUND.items() for path in paths}
    wanted = {**PERMISSIONS, **IN_STORES}
    found = look(machine, [*pairs, *pairs.values(), *wanted])
    missing = [path for path, facts in found.items() if facts is None]
    assert not missing
    assert {path: found[path][1] for path in pairs} == {p: found[s][1] for p, s in pairs.items()}
    assert {path: found[path][0] for path in wanted} == wanted
    assert machine.run("readlink /home/butz/symlinked_user_dir").out == (
        "/state/home/butz/symlinked_user_dir\n"
    )


def use(machine: Machine) -> None:
    """First boot: each file is a link, because the store lacks it; its user writes through it."""
    for kind in (FILES, LINKS):
        for store, files in kind.items():
            for path, user in files.items():
                assert machine.run(f"readlink {path}").out == f"{store}{path}\n"
                machine.run(f"test ! -e {path} && su {user} -c 'echo {user} potato > {path}'")
    machine.run("touch /pre/abc/a /pre/abc/def/b /pre/abc/def/ghi/c")
    machine.run("su alice -c 'echo deep > ~/.rabbit_hole/bottom'")
    machine.run("su butz -c 'echo one > ~/symlinked_user_dir/two'")


def check_files(machine: Machine) -> None:
    """Later boots: existing files are bound, except those that must be links."""
    for store, files in FILES.items():
        found = look(machine, [*files, *(store + path for path in files)])
        for path, user in files.items():
            assert found[path] is not None, path
            assert found[path][1:] == [found[store + path][1], ""], path
            assert machine.read(path) == f"{user} potato\n".encode()
    for store, files in LINKS.items():
        for path, user in files.items():
            assert machine.run(f"readlink {path}; cat {path}").out == (
                f"{store}{path}\n{user} potato\n"
            )
    assert machine.run("cat /home/wonderland/.rabbit_hole/bottom").out == "deep\n"
    assert machine.run("cat /state/home/butz/symlinked_user_dir/two").out == "one\n"
    stored = machine.run("ls /others/123/pre/abc/a /others/12/pre/abc/def/b "
                         "/others/1/pre/abc/def/ghi/c").out  # fmt: skip
    assert len(stored.split()) == 3
    options = machine.run("findmnt --mtab -rno OPTIONS /home/butz/yay_userspace_mount_options").out
    assert {"x-foo", "x-bar", "x-baz"} <= set(options.strip().split(","))
