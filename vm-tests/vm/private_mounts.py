"""Verbs that mount, run in a machine: they work with its kernel, and their mounts are never visible
outside.
"""

from __future__ import annotations

import json

from vm.machine import Machine

POINT = "/run/ephemeroot.mounts"

# TMPDIR leads through a link, which once caused a removal on the filesystem.
_SETUP = "mkdir -p /tmp/real && ln -sfn real /tmp/link"

# All mounts of process 1 while the verb runs.
_WATCHED = """\
touch /run/watching
while [ -e /run/watching ]; do cat /proc/1/mountinfo; done 2> /dev/null | grep {point} > /run/seen &
TMPDIR=/tmp/link ephemeroot {verb}
code=$?
rm /run/watching
wait
exit $code
"""


def require_private(machine: Machine) -> None:
    """Run each of the verbs and assert that it succeeds, that the caller's mounts are unchanged,
    that process 1 never saw a mount of the verb, and that no file is left.

    The root must be on btrfs and have an old root.
    """
    machine.run(_SETUP)
    listed = json.loads(machine.run("ephemeroot roots list --json").out)
    names = [entry["name"] for entry in listed["histories"][0]["entries"]]
    verbs = (
        "roots list", f"roots show {names[0]}", f"roots diff {names[0]}", "diff", "base list",
        "rehearse", "leave --dry-run --no-images",
    )  # fmt: skip
    for verb in verbs:
        before = machine.run("cat /proc/self/mountinfo").out
        done = machine.run(_WATCHED.format(point=POINT, verb=verb), check=False, timeout=120)
        assert done.rc == 0, f"{verb}: {done.out}"
        assert machine.run("cat /proc/self/mountinfo").out == before, verb
        assert machine.read("/run/seen") == b"", verb
    mounted = machine.run(
        f"mkdir /tmp/old && ephemeroot roots mount {names[0]} /tmp/old && findmnt -no OPTIONS "
        "/tmp/old && umount /tmp/old && rmdir /tmp/old"
    ).out
    assert "ro," in mounted.splitlines()[-1]
    assert machine.run(f"ls -A {POINT}").out == ""
    assert machine.run("ls -A /tmp/real").out == ""
