"""A user's own persistence in a machine whose root is fresh at every boot, with login sessions.

Root persists only the files needed before the user's systemd starts: the user's home.toml and
units. The user declares the rest.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vm import layer
from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.disk import Disk
from vm.ephemeral import CONFIGURATION, Ephemeral, make
from vm.image import PACKAGES, debian_system
from vm.machine import Machine
from vm.system import System

DiskFactory = Callable[..., Disk]

HOME = "/home/talyz"
STORE = f"/persistent{HOME}"

# Packages of a desktop; a user logs in on the console as soon as that is possible.
SELECTION = dataclasses.replace(
    PACKAGES,
    packages=(
        *PACKAGES.packages, "bindfs", "dbus-user-session", "fuse3", "libpam-systemd", "login"
    ),
)  # fmt: skip
FILES: dict[str, layer.Content] = {
    "etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf": (
        "[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin talyz --noclear %I vt100\n"
    ),
    "etc/profile.d/at-login.sh": (
        'findmnt -rno TARGET,FSTYPE,SOURCE -t fuse,fuse.bindfs > "$XDG_RUNTIME_DIR/at-login"\n'
    ),
}

SYSTEM_CONFIGURATION = CONFIGURATION.replace(
    'directories = ["Downloads", { directory = ".ssh", mode = "0700" }]\nfiles = [".screenrc"]',
    'directories = [".config/ephemeroot", ".config/systemd"]',
)

HOME_CONFIGURATION = f"""\
[persistence."{STORE}"]
directories = ["Documents", {{ directory = "Games", method = "symlink" }}, ".local/state"]
files = [".screenrc"]
"""

# Holds a file of a mount open while it runs, and writes a message at the end.
WRITER = """\
[Service]
ExecStart=/bin/sh -c 'exec 3>>%h/Documents/log; echo started >&3; \\
  trap "echo stopped >&3; exit" TERM; while :; do sleep 1; done'
[Install]
WantedBy=default.target
"""


@pytest.fixture(scope="module")
def with_sessions(cache: Cache, image: System, package: Path) -> Ephemeral:
    """The machine of the other tests, with login sessions, FUSE and bindfs."""
    system = debian_system(cache, SELECTION).on_top(layer.make(cache, files=FILES))
    return make(cache, system, package, SYSTEM_CONFIGURATION)


def as_user(machine: Machine, script: str, *, timeout: float = 60) -> str:
    """Log in as the user, run a shell script, log out."""
    machine.write("/run/script", script, mode=0o644)
    return machine.run("su --login talyz --command 'sh -eu /run/script'", timeout=timeout).out


def mounted(machine: Machine) -> set[str]:
    """The mount points of bindfs."""
    return set(machine.run("findmnt -rno TARGET -t fuse,fuse.bindfs", check=False).out.split())


def wait_for(machine: Machine, condition: str) -> None:
    machine.run(f"for i in $(seq 60); do {condition} && exit; sleep 1; done; exit 1", timeout=90)


def journal(machine: Machine) -> str:
    return machine.journal("_UID=1000")


def test_a_users_login(
    bench: Bench, cache: Cache, with_sessions: Ephemeral, disk: DiskFactory, name: str
) -> None:
    """Only a boot shows logins, the user's systemd and bindfs at shutdown."""
    system = with_sessions.system
    disks = (disk(with_sessions.layout(), system),)
    boot = Boot(system, with_sessions.initrd(cache), disks, sessions=True)

    first = bench.up(boot, name)
    assert first.settle() == "running", first.failed_units()
    said = json.loads(first.read("/run/ephemeroot/boot.json"))
    assert (said["wipe"]["problems"], said["persist"]["problems"]) == ([], [])
    wait_for(first, "loginctl list-sessions --no-legend | grep -q 'talyz.*ttyS0'")
    as_user(
        first,
        f"cat > ~/.config/ephemeroot/home.toml <<'E'\n{HOME_CONFIGURATION}E\n"
        f"mkdir -p ~/.config/systemd/user\n"
        f"cat > ~/.config/systemd/user/writer.service <<'E'\n{WRITER}E\n"
        "ephemeroot home check\n"
        "ephemeroot home enable\n"
        "systemctl --user enable writer.service\n"
        "systemctl --user start ephemeroot-home.service\n"
        "systemctl --user is-active ephemeroot-home.service\n"
        "echo day 1 | tee ~/Documents/diary > ~/.screenrc\n"
        "echo forgotten > ~/forgotten; echo score > ~/Games/score\n",
    )
    assert mounted(first) == {f"{HOME}/Documents", f"{HOME}/.local/state"}
    end = first.poweroff()
    assert end.complaints == ()

    second = bench.up(boot, name)
    assert second.settle() == "running", second.failed_units()
    wait_for(second, "[ -e /run/user/1000/at-login ]")
    at_login = second.read("/run/user/1000/at-login").decode()
    assert f"{HOME}/Documents fuse.bindfs {STORE}/Documents" in at_login
    read = "cat ~/Documents/diary ~/.screenrc ~/Games/score; test ! -e ~/forgotten"
    assert as_user(second, read) == "day 1\nday 1\nscore\n"
    assert as_user(second, "systemctl --user is-active ephemeroot-home writer") == "active\n" * 2
    assert "4 entries: all in place" in as_user(second, "ephemeroot home status")
    said = journal(second)
    order = [
        "Mount Persistent Paths Into the Home",
        "Reached target basic.target",
        "writer.service",
    ]
    places = [said.index(word) for word in order]
    assert places == sorted(places), said

    second.run("systemctl stop serial-getty@ttyS0.service; loginctl terminate-user talyz")
    wait_for(second, '[ "$(systemctl is-active user@1000.service)" = inactive ]')
    assert mounted(second) == set(), journal(second)
    assert second.run("pgrep bindfs", check=False).out == ""
    # The service with an open file in a mount stopped before the mount was unmounted.
    assert second.read(f"{STORE}/Documents/log") == b"started\nstopped\n"
    assert "lazily" not in journal(second)
    assert second.run(f"ls {HOME}/Documents").out == ""

    assert as_user(second, "cat ~/Documents/diary") == "day 1\n"  # the next login
    assert mounted(second) == {f"{HOME}/Documents", f"{HOME}/.local/state"}
    end = second.poweroff()
    assert end.complaints == ()
