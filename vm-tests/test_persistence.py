"""How programs use persistent paths, in two boots of one disk, of which one ends with a power cut.

The first is systemd's first boot and has `ro` on the kernel command line, the second `rw`. The
machine declares all paths of the test suites of impermanence and preservation (`others`), and has
services that replace, generate and link persistent paths.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

import others
from vm import ephemeral as machines
from vm import layer
from vm.bench import ROOT, Bench, Boot
from vm.cache import Cache
from vm.command import Unavailable, run
from vm.disk import Disk, Subvolume
from vm.image import WITH_SERVICES, debian_system
from vm.layer import Content
from vm.loop import mounted
from vm.machine import Machine
from vm.qemu import Hardware
from vm.system import System
from vm.tools import Tools

DiskFactory = Callable[..., Disk]

# The harness's own file, which keeps the journal in memory.
JOURNALD = "etc/systemd/journald.conf.d/volatile.conf"

ACCOUNTS = ("passwd", "shadow", "group", "gshadow")
# Keys that Debian's sshd-keygen.service makes on a first boot; the image has an RSA key, which
# takes long to make.
KEYS = tuple(
    f"ssh/ssh_host_{kind}_key{end}" for kind in ("ecdsa", "ed25519") for end in ("", ".pub")
)
PUBLIC = tuple(name for name in KEYS if name.endswith(".pub"))
# Directories of the store that get a wrong owner between the boots.
WRONG = ("/etc/NetworkManager", "/home/bird/Music")
COPIED = "".join(
    f'  {{ file = "/etc/{name}", method = "copy" }},\n'
    for name in (*ACCOUNTS, "resolv.conf", *KEYS)
)
CONFIGURATION = (
    machines.CONFIGURATION.replace(
        '  "/etc/machine-id",\n  "/etc/hostname",\n',
        '  { file = "/etc/machine-id", first-boot = true },\n  "/etc/hostname",\n'
        f'  "/etc/own_key", "/etc/own_key.pub",\n{COPIED}',
    ).replace(
        '  "/var/log",\n',
        f'  "/var/log",\n{others.SYSTEM_DIRECTORIES}  "/var/lib/NetworkManager",\n'
        '  { directory = "/opt", method = "overlay" },\n'
        '  { directory = "/var/lib/private/z", allow-trash = true, '
        'mount-options = ["x-mine", "nodev"] },\n',
    )
    + f"""
[[volumes]]
mount-point = "/others"
device = "UUID={machines.UUID}"
type = "btrfs"
options = ["subvol=others"]
timeout = "20s"

"""
    + others.CONFIGURATION
)

PREPARE = f"set -e\n{others.PREPARE}rm /etc/ssh/ssh_host_e*_key*\n"


@dataclass(frozen=True)
class Ext4Store:
    """An ext4 that contains only a store, with the `files` that `apply` wrote."""

    uuid: str
    files: Mapping[str, Content] = field(repr=True)
    size: str = "64M"

    def fill(self, image: Path, cache: Cache, tools: Tools, system: System) -> None:
        """See `vm.disk.Layout`."""
        run(["mkfs.ext4", "-q", "-F", "-U", self.uuid, image])
        with mounted(image, "ext4", "rw") as top:
            for name, content in self.files.items():
                layer.write(top, name, content)


@pytest.fixture(scope="session")
def services(cache: Cache) -> System:
    """A Debian with NetworkManager, an SSH server and the users of `others`."""
    try:
        system = debian_system(cache, WITH_SERVICES)
    except Unavailable as error:
        pytest.skip(f"no machines here: {error}")
    files = {JOURNALD: "[Journal]\nStorage=persistent\n", "opt/of-the-base": "", "opt/stays": ""}
    return system.on_top(layer.make(cache, files=files)).changed_by(cache, "sh", "-c", PREPARE)


def disks(made: machines.Ephemeral, disk: DiskFactory) -> tuple[Disk, Disk]:
    """One with the root, the main store and those of impermanence, and one with preservation's
    store.
    """
    applied = made.system.layers[-1]
    first = made.layout()
    beside = Subvolume("others", files=machines.files_below(applied / "others"))
    first = replace(first, subvolumes=(*first.subvolumes, beside))
    second = Ext4Store(others.STATE_UUID, machines.files_below(applied / "state"))
    return disk(first, made.system), disk(second, made.system)


def until(machine: Machine, condition: str) -> None:
    machine.run(f"for i in $(seq 60); do {condition} && exit; sleep 0.5; done; false")


def require_well(machine: Machine) -> None:
    assert machine.settle() == "running", machine.failed_units()
    assert machine.failed_units() == []
    report = machine.run(
        'python3 -c \'import json; r = json.load(open("/run/ephemeroot/boot.json")); '
        'print([r[stage]["problems"] for stage in ("wipe", "persist")])\''
    )
    assert report.out.strip() == "[[], []]"
    machine.run("systemctl is-active ephemeroot-boot-complete.service ephemeroot-copy.path")


def check_first_boot(machine: Machine) -> bytes:
    """systemd's first boot: it makes the machine ID, and units wait for it. Return the ID."""
    machine.run("systemctl is-active first-boot-complete.target sshd-keygen.service ssh.service")
    identity = machine.read("/etc/machine-id")
    assert re.fullmatch(rb"[0-9a-f]{32}\n", identity)
    until(machine, "cmp /etc/machine-id /persistent/etc/machine-id")
    assert machine.run("findmnt /etc/machine-id", check=False).out == ""
    return identity


def change_accounts(machine: Machine) -> None:
    machine.run("useradd --create-home eve && echo eve:secret | chpasswd")
    machine.run("printf 'secret\\nMuch-longer-1\\nMuch-longer-1\\n' | su eve -c passwd")
    machine.run("printf 'Other-1-word\\nOther-1-word\\n' | passwd talyz")
    machine.run("usermod --append --groups audio eve")
    until(machine, "cmp /etc/group /persistent/etc/group")
    for account in (*ACCOUNTS, *KEYS):
        machine.run(f"cmp /etc/{account} /persistent/etc/{account}")
    assert machine.run("grep -c '^\\(eve\\|talyz\\):[$]' /persistent/etc/shadow").out == "2\n"


def make_keys(machine: Machine) -> None:
    """Root makes keys through dangling links, and a user in a bound directory."""
    machine.run("ssh-keygen -q -t ed25519 -N '' -f /etc/own_key")
    machine.run("su talyz -c \"ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519\"")
    machine.run("test -L /etc/own_key && ssh-keygen -y -f /persistent/etc/own_key")


def make_connection(machine: Machine) -> None:
    """NetworkManager's normal work: it writes its files again and renames them."""
    machine.run(
        "nmcli connection add type dummy ifname dummy0 con-name office ipv4.method manual "
        "ipv4.addresses 10.9.8.7/24 ipv4.dns 10.9.8.1 ipv6.method disabled && "
        "nmcli connection modify office +ipv4.addresses 10.9.8.9/24 && "
        "nmcli --wait 30 connection up office"
    )
    machine.run("nmcli radio wifi off")
    until(machine, "grep -q =false /persistent/var/lib/NetworkManager/NetworkManager.state")
    until(machine, "grep -qx 'nameserver 10.9.8.1' /persistent/etc/resolv.conf")
    connections = "/etc/NetworkManager/system-connections"
    assert machine.run(f"ls {connections}").out == "office.nmconnection\n"
    machine.run(
        f"cmp {connections}/office.nmconnection /persistent{connections}/office.nmconnection"
    )


def check_connection(machine: Machine) -> None:
    until(machine, "nmcli -t -f NAME,STATE connection show --active | grep -qx office:activated")
    addresses = machine.run("nmcli -g IP4.ADDRESS device show dummy0").out
    assert {"10.9.8.7/24", "10.9.8.9/24"} <= set(addresses.replace("|", " ").split())
    assert b"nameserver 10.9.8.1\n" in machine.read("/etc/resolv.conf")
    assert machine.run("nmcli radio wifi").out == "disabled\n"


def check_keys(machine: Machine, made: Made) -> None:
    """The server has the keys of the first boot, and so have all users."""
    assert tuple(machine.read(f"/etc/{name}") for name in PUBLIC) == made.keys
    machine.run("systemctl is-active ssh.service")
    seen = machine.run("ssh-keyscan -t ed25519 localhost 2>/dev/null | grep -v ^#").out.split()
    assert any(seen[2].encode() in key for key in made.keys)
    assert machine.run(f"stat -c '%U:%G %a' /etc/{KEYS[2]}").out == "root:root 600\n"
    for path in ("/etc/own_key", "/etc/own_key.pub"):
        machine.run(f"test ! -L {path} && findmnt {path}")
    machine.run("ssh-keygen -y -f /etc/own_key | cut -d' ' -f2 | grep -qFf - /etc/own_key.pub")
    machine.run("ssh-keygen -y -f /home/talyz/.ssh/id_ed25519")


@dataclass(frozen=True)
class Made:
    """The files that the machine made in its first boot: its machine ID, hashes of passwords, host
    keys.
    """

    identity: bytes
    passwords: str
    keys: tuple[bytes, ...]


def first_boot(machine: Machine) -> Made:
    require_well(machine)
    identity = check_first_boot(machine)
    others.check_directories(machine)
    others.use(machine)
    machine.run("logger -t first-boot persisted && journalctl --sync")
    change_accounts(machine)
    make_keys(machine)
    make_connection(machine)
    machine.run("mkdir -p /opt/app; echo mine > /opt/app/file; rm /opt/of-the-base")
    passwords = machine.run("getent shadow eve talyz").out
    made = Made(identity, passwords, tuple(machine.read(f"/etc/{name}") for name in PUBLIC))
    # The program that would store it waits for a lock, and then the power fails.
    held = "flock /run/ephemeroot/copy.lock sh -c 'touch /run/held; sleep 600'"
    machine.run(f"setsid {held} > /dev/null 2>&1 &")
    until(machine, "test -e /run/held")
    machine.run("useradd late && sync")
    assert machine.run("grep -c ^late: /persistent/etc/passwd", check=False).out == "0\n"
    machine.cut()
    return made


def meanwhile(top: Path) -> None:
    """An upgrade of the base adds a service with its user; and a directory gets a wrong owner,
    which only the administrator may repair.
    """
    for file, line in (("passwd", "sql:x:990:990::/:/bin/false"), ("group", "sql:x:990:"),
                       ("shadow", "sql:!:20000::::::"), ("gshadow", "sql:!::")):  # fmt: skip
        with (top / "root-base/etc" / file).open("a") as lines:
            lines.write(f"{line}\n")
    for path in WRONG:
        os.chown(top / f"persistent{path}", 4711, 4712)


def second_boot(machine: Machine, made: Made) -> None:
    require_well(machine)
    assert machine.read("/etc/machine-id") == made.identity
    first = machine.run("systemctl is-active first-boot-complete.target", check=False)
    assert first.out == "inactive\n"
    for user in ("eve", "late", "sql", "talyz"):
        machine.run(f"getent passwd {user} && getent shadow {user} && grep ^{user}: "
                    "/persistent/etc/passwd /persistent/etc/shadow")  # fmt: skip
    assert machine.run("getent shadow eve talyz").out == made.passwords
    assert "audio" in machine.run("id -Gn eve").out.split()
    assert machine.run("stat -c '%U:%G %a' /etc/shadow").out == "root:shadow 640\n"
    check_keys(machine, made)
    check_connection(machine)
    for path in WRONG:
        assert machine.run(f"stat -c %u:%g {path}").out == "4711:4712\n"
    others.check_directories(machine)
    others.check_files(machine)
    assert machine.read("/opt/app/file") == b"mine\n"
    assert machine.run("ls /opt").out.split() == ["app", "stays"]
    assert machine.run("stat -c %a /var/lib/private").out == "700\n"
    assert "nodev" in machine.run("findmnt -no OPTIONS /var/lib/private/z").out
    listed = machine.run("findmnt --mtab -rno OPTIONS /var/lib/private/z").out
    assert {"x-gvfs-hide", "x-gvfs-trash", "x-mine"} <= set(listed.strip().split(","))
    boots = machine.run("journalctl --list-boots --no-pager -q").out
    assert len(boots.splitlines()) == 2, boots
    machine.run("journalctl --boot=-1 -q --no-pager -t first-boot | grep persisted")
    # systemd breaks a cycle by removing a job of its choice: a check of a store, or the wipe.
    assert "ordering cycle" not in machine.journal()
    # Only the shutdown reports this one.
    machine.run("systemctl stop ephemeroot-copy.path && useradd last")
    end = machine.poweroff()
    assert end.complaints == ()
    for words in ("stop job", "timed out. Killing", "Stopping timed out"):
        assert words not in end.console


def test_services_that_replace_generate_and_lock_their_files(
    bench: Bench, cache: Cache, services: System, package: Path, disk: DiskFactory, name: str
) -> None:
    """Only a boot shows running services, a power cut and a shutdown."""
    stores = ("/persistent", *others.STORES)
    made = machines.make(cache, services, package, CONFIGURATION, stores=stores)
    boot = Boot(
        made.system,
        made.initrd(cache),
        disks(made, disk),
        hardware=Hardware(cpus=2),  # programs really run concurrently
        sessions=True,
    )
    before = first_boot(bench.up(boot, name))
    with boot.disks[0].mounted() as top:
        meanwhile(top)
    second_boot(bench.up(replace(boot, root=(*ROOT[:2], "rw")), name), before)
    with boot.disks[0].mounted() as top:
        stored = (top / "persistent/etc/passwd").read_text()
        assert re.search(r"^last:", stored, re.MULTILINE)
        assert (top / "persistent/etc/passwd").stat().st_mode & 0o777 == 0o644


@pytest.mark.proof
def test_a_machine_id_that_never_persists(
    bench: Bench, cache: Cache, image: System, package: Path, disk: DiskFactory, name: str
) -> None:
    """Each boot is then another machine, and systemd reports no problem.

    Only a boot shows how systemd treats a new machine ID.
    """
    configuration = machines.CONFIGURATION.replace('  "/etc/machine-id",\n', "")
    made = machines.make(cache, image, package, configuration)
    boot = Boot(made.system, made.initrd(cache), (disk(made.layout(), made.system),))
    machine = bench.up(boot, name)
    assert machine.settle() == "running", machine.failed_units()
    assert re.fullmatch(rb"[0-9a-f]{32}\n", machine.read("/etc/machine-id"))
    machine.run("test ! -e /persistent/etc/machine-id")
    assert machine.poweroff().complaints == ()
