"""What programs do to persisted paths, in two boots of one disk: one ends by a power cut.

The first has `ro` on the kernel command line, the second `rw`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from vm import ephemeral as machines
from vm import layer
from vm.bench import ROOT, Bench, Boot
from vm.cache import Cache
from vm.disk import Disk
from vm.machine import Machine
from vm.system import System

DiskFactory = Callable[..., Disk]

# The harness's own, which keeps the journal in memory.
JOURNALD = "etc/systemd/journald.conf.d/volatile.conf"

ACCOUNTS = ("passwd", "shadow", "group", "gshadow")
COPIED = "".join(f'  {{ file = "/etc/{name}", method = "copy" }},\n' for name in ACCOUNTS)
CONFIGURATION = machines.CONFIGURATION.replace(
    '  "/etc/hostname",\n', f'  "/etc/hostname",\n{COPIED}'
).replace(
    '  "/srv/with blank",\n',
    '  "/srv/with blank",\n'
    '  { directory = "/opt", method = "overlay" },\n'
    '  { directory = "/var/lib/private/z", allow-trash = true, mount-options = ["x-mine", "nodev"]'
    " },\n",
)


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
    machine.run("systemctl is-active ephemeroot-lived.service ephemeroot-copy.path")


def test_programs_at_work(
    bench: Bench, cache: Cache, image: System, package: Path, disk: DiskFactory, name: str
) -> None:
    files = {JOURNALD: "[Journal]\nStorage=persistent\n", "opt/of-the-base": "", "opt/stays": ""}
    system = image.on_top(layer.make(cache, files=files))
    made = machines.make(cache, system, package, CONFIGURATION)
    boot = Boot(made.system, made.initrd(cache), (disk(made.layout(), made.system),))
    machine = bench.up(boot, name)
    require_well(machine)
    identity = machine.read("/etc/machine-id")
    assert re.fullmatch(rb"[0-9a-f]{32}\n", identity)
    machine.run("logger -t first-boot persisted && journalctl --sync")
    machine.run("useradd --create-home eve && echo eve:secret | chpasswd")
    until(machine, "grep -q '^eve:[$]' /persistent/etc/shadow")
    for account in ACCOUNTS:
        machine.run(f"cmp /etc/{account} /persistent/etc/{account}")
    machine.run("mkdir -p /opt/app; echo mine > /opt/app/file; rm /opt/of-the-base")
    # Whoever would store it waits for a lock, and then the power goes.
    held = "flock /run/ephemeroot/copy.lock sh -c 'touch /run/held; sleep 600'"
    machine.run(f"setsid {held} > /dev/null 2>&1 &")
    until(machine, "test -e /run/held")
    machine.run("useradd late && sync")
    assert machine.run("grep -c ^late: /persistent/etc/passwd", check=False).out == "0\n"
    machine.cut()

    with boot.disks[0].mounted() as top:
        # An upgrade of the base brings a service with its user.
        for file, line in (("passwd", "sql:x:990:990::/:/bin/false"), ("group", "sql:x:990:"),
                           ("shadow", "sql:!:20000::::::"), ("gshadow", "sql:!::")):  # fmt: skip
            with (top / "root-base/etc" / file).open("a") as lines:
                lines.write(f"{line}\n")
    writable = Boot(boot.system, boot.initrd, boot.disks, root=(*ROOT[:2], "rw"))
    machine = bench.up(writable, name)
    require_well(machine)
    assert machine.read("/etc/machine-id") == identity
    for user in ("eve", "late", "sql", "talyz"):
        machine.run(f"getent passwd {user} && getent shadow {user} && grep ^{user}: "
                    "/persistent/etc/passwd /persistent/etc/shadow")  # fmt: skip
    assert machine.run("getent shadow eve").out.startswith("eve:$")
    assert machine.run("stat -c '%U:%G %a' /etc/shadow").out == "root:shadow 640\n"
    assert machine.read("/opt/app/file") == b"mine\n"
    assert machine.run("ls /opt").out.split() == ["app", "stays"]
    assert machine.run("stat -c %a /var/lib/private").out == "700\n"
    assert "nodev" in machine.run("findmnt -no OPTIONS /var/lib/private/z").out
    listed = machine.run("findmnt --mtab -rno OPTIONS /var/lib/private/z").out
    assert {"x-gvfs-hide", "x-gvfs-trash", "x-mine"} <= set(listed.strip().split(","))
    boots = machine.run("journalctl --list-boots --no-pager -q").out
    assert len(boots.splitlines()) == 2, boots
    machine.run("journalctl --boot=-1 -q --no-pager -t first-boot | grep persisted")
    # Nothing notices this one but the shutdown.
    machine.run("systemctl stop ephemeroot-copy.path && useradd last")
    end = machine.poweroff()
    assert end.complaints == ()
    with boot.disks[0].mounted() as top:
        stored = (top / "persistent/etc/passwd").read_text()
        assert re.search(r"^last:", stored, re.MULTILINE)
        assert (top / "persistent/etc/passwd").stat().st_mode & 0o777 == 0o644


def test_a_machine_id_that_never_persists(
    bench: Bench, cache: Cache, image: System, package: Path, disk: DiskFactory, name: str
) -> None:
    """Each boot is another machine then, and systemd has nothing to complain of."""
    configuration = machines.CONFIGURATION.replace('  "/etc/machine-id",\n', "")
    made = machines.make(cache, image, package, configuration)
    boot = Boot(made.system, made.initrd(cache), (disk(made.layout(), made.system),))
    machine = bench.up(boot, name)
    assert machine.settle() == "running", machine.failed_units()
    assert re.fullmatch(rb"[0-9a-f]{32}\n", machine.read("/etc/machine-id"))
    machine.run("test ! -e /persistent/etc/machine-id")
    assert machine.poweroff().complaints == ()
