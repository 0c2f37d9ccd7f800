"""A machine in use: in each boot its programs change their own files, and find them unchanged in
the next one.

Three boots in CI, ten in `make proof`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import proof
from vm import ephemeral as machines
from vm import layer
from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.command import Unavailable
from vm.disk import Disk
from vm.image import WITH_SERVICES, debian_system
from vm.machine import Machine
from vm.system import System

DiskFactory = Callable[..., Disk]

SELECTION = replace(
    WITH_SERVICES,
    packages=(*WITH_SERVICES.packages, "nano", "tzdata", "vim-tiny"),
)
ZONES = ("Europe/Berlin", "Asia/Tokyo", "America/Lima", "Africa/Cairo", "Etc/UTC")

# The unit of a package: it has state of its own, under a user that exists only while it runs.
COUNTER = """\
[Service]
Type=oneshot
DynamicUser=yes
StateDirectory=counter
ExecStart=/bin/sh -c 'echo $$(( $$(cat $STATE_DIRECTORY/n || echo 0) + 1 )) > $STATE_DIRECTORY/n'
"""
# Types into nano: each input answers a prompt on the screen.
TYPED = """\
import os, pty, sys
child, terminal = pty.fork()
if child == 0:
    os.environ["TERM"] = "vt100"
    os.execvp("nano", ["nano", sys.argv[1]])
shown = b""
typing = (
    (b"^X", sys.argv[2].encode() + b"\\x0f"), (b"File", b"\\r"), (b"Wrote", b"\\x18"),
)
for expected, keys in typing:
    while expected not in shown:
        shown += os.read(terminal, 4096)
    shown = b""
    os.write(terminal, keys)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
FILES: dict[str, layer.Content] = {
    "usr/lib/typed.py": TYPED,
    "usr/lib/systemd/system/counter.service": COUNTER,
    **{
        f"usr/lib/systemd/system/extra-{number}.service": (
            "[Service]\nType=oneshot\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
        )
        for number in range(10)
    },
    "etc/app.conf": "from the package\n",
    "srv/notes/list": "first line\n",
}

CONFIGURATION = machines.CONFIGURATION.replace(
    '  "/etc/machine-id",\n  "/etc/hostname",\n',
    '  "/etc/machine-id",\n  "/etc/app.conf",\n'
    + "".join(
        f'  {{ file = "/etc/{name}", method = "copy" }},\n'
        for name in ("hostname", "passwd", "shadow", "group", "gshadow", "subuid", "subgid")
    )
    + '  { file = "/etc/localtime", method = "copy" },\n',
).replace(
    '  "/var/log",\n',
    '  "/var/log", "/home", "/root", "/srv/notes", "/etc/systemd/system",\n'
    '  "/etc/NetworkManager/system-connections", "/var/lib/counter", "/var/lib/database",\n',
)

# Stores a row, and leaves the write-ahead log of the database behind like a running program.
INSERT = """\
import os, sqlite3, sys
database = sqlite3.connect("/var/lib/database/main.db")
database.execute("PRAGMA journal_mode=WAL")
database.execute("CREATE TABLE IF NOT EXISTS rows (number INTEGER)")
database.execute("INSERT INTO rows VALUES (?)", (int(sys.argv[1]),))
database.commit()
os._exit(0)
"""
COUNT = """\
import sqlite3
database = sqlite3.connect("/var/lib/database/main.db")
print(database.execute("SELECT group_concat(number) FROM rows").fetchone())
"""


@dataclass(frozen=True)
class Program:
    """`change`, with the number of the boot as `$n`, changes the output of `show`."""

    change: str
    show: str


PROGRAMS = {
    "useradd": Program(
        "useradd --create-home user$n",
        "getent passwd | grep ^user; getent group | grep ^user; cat /etc/subuid; ls -ln /home",
    ),
    "passwd": Program(
        "printf 'New-word-%s\\nNew-word-%s\\n' $n $n | passwd -q talyz", "getent shadow talyz"
    ),
    "chsh": Program(
        "chsh -s $(test $((n % 2)) = 0 && echo /bin/bash || echo /bin/sh) talyz",
        "getent passwd talyz",
    ),
    "timedatectl": Program(
        f"set -- {' '.join(ZONES)}; shift $((n % {len(ZONES)})); timedatectl set-timezone $1",
        "readlink /etc/localtime; date +%Z; timedatectl show -p Timezone",
    ),
    "hostnamectl": Program(
        "hostnamectl hostname machine-$n", "cat /etc/hostname; hostnamectl --static; uname -n"
    ),
    "nmcli": Program(
        "nmcli connection add type dummy ifname dummy$n con-name net$n ipv4.method manual "
        "ipv4.addresses 10.9.$n.7/24 ipv6.method disabled",
        "ls -l --time-style=+ /etc/NetworkManager/system-connections; "
        "nmcli -g NAME connection show | grep ^net | sort",
    ),
    "ssh-keygen": Program(
        'for user in root talyz; do su $user -c "mkdir -p -m 0700 ~/.ssh && ssh-keygen -q -t '
        "ed25519 -N '' -f ~/.ssh/key-$n\"; done",
        "sha256sum /root/.ssh/key-* /home/talyz/.ssh/key-*; stat -c '%a %U' /home/talyz/.ssh/key-*",
    ),
    "systemctl enable": Program(
        "systemctl enable extra-$((n % 10)).service",
        "systemctl list-unit-files --state=enabled 'extra-*' --no-legend",
    ),
    "a service with DynamicUser": Program(
        # Declared as /var/lib/counter, before systemd has made that a link into private.
        "systemctl start counter.service && test /var/lib/counter -ef /var/lib/private/counter",
        "cat /var/lib/private/counter/n; stat -c %a /var/lib/private",
    ),
    "a database": Program(
        f"mkdir -p /var/lib/database; python3 -c '{INSERT}' $n", f"python3 -c '{COUNT}'"
    ),
    "vim, a bound file": Program(
        'vim.tiny -es -u NONE -c "normal Goboot $n" -c wq /etc/app.conf', "cat /etc/app.conf"
    ),
    "vim, in a bound directory": Program(
        'vim.tiny -es -u NONE -c "normal Goboot $n" -c wq /srv/notes/list', "cat /srv/notes/list"
    ),
    "nano": Program('python3 /usr/lib/typed.py /srv/notes/nano "boot $n"', "cat /srv/notes/nano"),
    "a program that replaces its file": Program(
        "echo $n > /srv/notes/.new && mv /srv/notes/.new /srv/notes/state", "cat /srv/notes/state"
    ),
}


@pytest.fixture(scope="session")
def used(cache: Cache) -> System:
    """A Debian with common programs, and with the units of packages."""
    try:
        system = debian_system(cache, SELECTION)
    except Unavailable as error:
        pytest.skip(f"no machines here: {error}")
    return system.on_top(layer.make(cache, files=FILES))


def shown(machine: Machine) -> dict[str, str]:
    """The present state of each program."""
    return {name: machine.run(program.show, check=False).out for name, program in PROGRAMS.items()}


def require_well(machine: Machine) -> None:
    assert machine.settle() == "running", machine.failed_units()
    report = json.loads(machine.read("/run/ephemeroot/boot.json"))
    assert [report[stage]["problems"] for stage in ("wipe", "persist")] == [[], []]


@pytest.mark.proof
def test_programs_find_their_files_unchanged_in_each_boot(
    bench: Bench, cache: Cache, used: System, package: Path, disk: DiskFactory, name: str
) -> None:
    """Only a boot shows common programs, with their daemons, over several boots."""
    made = machines.make(cache, used, package, CONFIGURATION)
    boot = Boot(made.system, made.initrd(cache), (disk(made.layout(), made.system),), sessions=True)
    left: dict[str, str] = {}
    for number in range(proof.rounds(3, 10)):
        machine = bench.up(boot, name)
        require_well(machine)
        machine.run("test ! -e /forgotten && touch /forgotten")
        if left:
            assert shown(machine) == left, f"boot {number}"
        before = shown(machine)
        for program in PROGRAMS.values():
            machine.run(f"n={number}; {program.change}")
        left = shown(machine)
        assert [one for one in PROGRAMS if left[one] == before[one]] == []
        status = json.loads(machine.run("ephemeroot status --json", check=False).out)
        assert status["not-in-effect"] == []
        assert machine.poweroff().complaints == ()
