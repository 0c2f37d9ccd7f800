"""`ephemeroot init` converts systems as the installers of distributions leave them.

Its commands run unchanged, on the running machine, in its order, with the reboots that it requests;
then `check` and `rehearse` find no problems.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

import distributions
import proof
from checkout import CHECKOUT
from distributions import Distribution
from live_machine import REBOOT, LiveMachine, init, live_machine, marked, part

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]

_BOOTS = 4
_BLOCK = re.compile(r"^```sh(?: illustration)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)

GUIDE = CHECKOUT / "docs/converting-debian.md"


def follow(machine: LiveMachine) -> list[str]:
    """Execute the commands that `init` prints, boot after boot, until it reports that no step
    remains; return all commands.
    """
    typed: list[str] = []
    for _ in range(_BOOTS):
        commands = init(machine)
        typed += commands
        mine = [c for c in commands if c not in ("ephemeroot apply", "ephemeroot rehearse")]
        script = "".join(
            f"echo {shlex.quote('$ ' + one)}\n{one}\nrc=$?; [ $rc = 0 ] || exit $rc\n"
            for one in mine
        )
        done = machine.session(script)
        assert done.status == REBOOT, done.text
        if "ephemeroot apply" in commands:
            return typed
    raise AssertionError(f"init asks for more than {_BOOTS} boots: {typed}")


@pytest.mark.parametrize(
    "distribution", proof.sample(distributions.ALL, 3, seed=2), ids=lambda one: one.name
)
def test_the_commands_of_init_make_the_root_ephemeral(
    distribution: Distribution, tmp_path: Path
) -> None:
    with live_machine(distribution, tmp_path) as machine:
        typed = follow(machine)
        assert not [c for c in typed if c.startswith("#")], "left to the reader"
        done = machine.session(
            marked("check", "ephemeroot check --json")
            + marked("rehearse", "ephemeroot rehearse --json")
            + marked("apply", "ephemeroot apply --yes --no-images; echo status $?")
            + marked("again", "ephemeroot check --json")
        )
        print(done.text)
        problems = json.loads(part(done, "check"))["problems"]
        assert [p for p in problems if "has no marker" not in p["reason"]] == []
        found = json.loads(part(done, "rehearse"))
        assert [f for f in found["findings"] if f["severity"] != "note"] == []
        assert found["would-boot"]
        assert part(done, "apply").endswith("status 0\n")
        assert json.loads(part(done, "again"))["errors"] == 0


INTERRUPTED = [
    (one, number)
    for one in distributions.ALL
    if one.name in ("Debian, btrfs, UEFI", "openSUSE Tumbleweed, GRUB", "Debian, ext4, UEFI",
                    "Debian, btrfs, a swap file")
    for number in range(1, 21)
]  # fmt: skip


@pytest.mark.parametrize(
    ("distribution", "number"),
    proof.sample(INTERRUPTED, 1, seed=5),
    ids=lambda one: getattr(one, "name", one),
)
def test_an_interrupted_conversion_can_be_continued(
    distribution: Distribution, number: int, tmp_path: Path
) -> None:
    """The machine is switched off after that many commands; then `init` is run again."""
    with live_machine(distribution, tmp_path) as machine:
        mine = [c for c in init(machine) if c not in ("ephemeroot apply", "ephemeroot rehearse")]
        done = machine.session("set -e\n" + "\n".join(mine[:number]))
        assert done.status in (0, REBOOT), done.text
        follow(machine)
        done = machine.session(
            marked("apply", "ephemeroot apply --yes --no-images; echo status $?")
            + marked("check", "ephemeroot check --json")
        )
        print(done.text)
        assert part(done, "apply").endswith("status 0\n")
        assert json.loads(part(done, "check"))["errors"] == 0


def test_the_guide_has_the_commands_of_init(tmp_path: Path) -> None:
    """Chapters 3 to 6 of the guide are for a Debian with UEFI, in the order of `init`."""
    (debian,) = [one for one in distributions.ALL if one.name == "Debian, btrfs, UEFI"]
    chapters = re.split(r"^## \d+\. .*$", GUIDE.read_text(), flags=re.MULTILINE)
    with live_machine(debian, tmp_path) as machine:
        printed = [
            c.replace(f"UUID={machine.uuids['']}", "UUID=…") for c in init(machine)
            if not c.startswith("ephemeroot setup")
        ]  # fmt: skip
    shown = [
        line
        for chapter in chapters[3:7]
        for block in _BLOCK.findall(chapter)
        for line in block.splitlines()
    ]  # fmt: skip
    more = ("ephemeroot adopt /var/lib/libvirt/images", "ephemeroot plan")
    first = [line for line in shown if line not in more]
    # In the order of the chapters, `check` comes before the base is made.
    assert sorted(first) == sorted(printed)
    assert [c for c in first if c in printed[:-6]] == printed[:-6]


# Steps that a reader may skip after /boot has moved, or that may fail.
LEFT_OUT = ("-install", "mount /boot/efi", "mkconfig")
MOVING = [one for one in distributions.ALL if one.type == "btrfs" and not one.entry]
CASES = [
    (one, left_out)
    for one in MOVING
    for left_out in LEFT_OUT
    if ("/boot/efi" in one.partitions or "efi" not in left_out)
    # The old menu boots the installer's root, which has no configuration.
    and ("/" not in one.root or left_out != "mkconfig")
]


def leaves_out(command: str, what: str) -> bool:
    if what == "mkconfig":
        return command.startswith(("update-grub", "grub-mkconfig", "grub2-mkconfig"))
    if what == "mount /boot/efi":
        return command.endswith(("mount /boot/efi", "-install")) and not command.startswith("#")
    return what in command


@pytest.mark.parametrize(
    ("distribution", "left_out"),
    proof.sample(CASES, 1, seed=3),
    ids=lambda one: getattr(one, "name", one),
)
def test_reports_a_boot_loader_that_reads_another_directory(
    distribution: Distribution, left_out: str, tmp_path: Path
) -> None:
    """`check` and `apply` refuse until the commands of the hint have run, also after a reboot; on
    a machine that is armed `status` says so.
    """
    with live_machine(distribution, tmp_path) as machine:
        while "ephemeroot apply" not in (commands := init(machine)):
            script = "\n".join(commands)
            assert machine.session(f"set -e\n{script}").status == REBOOT
        skipped = ("ephemeroot apply", "ephemeroot rehearse", "ephemeroot check", "reboot")
        mine = [c for c in commands if c not in skipped and not leaves_out(c, left_out)]
        assert len(mine) < len(commands) - len(skipped)
        done = machine.session("set -e\n" + "\n".join(mine))
        assert done.status == 0, done.text
        is_right = True
        for script in ("", "", REPAIR, ""):
            done = machine.session(
                marked("check", "ephemeroot check --json > /tmp/check; echo $?")
                + marked("problems", "cat /tmp/check")
                + marked("apply", "ephemeroot apply --yes --no-images; echo status $?")
                + marked("repair", script)
                + marked("after", "ephemeroot check --json > /tmp/check; echo $?")
            )
            print(done.text)
            is_right = part(done, "check") == "0\n"
            assert is_right == part(done, "apply").endswith("status 0\n")
            if not is_right:
                errors = [
                    p for p in json.loads(part(done, "problems"))["problems"]
                    if p["severity"] == "error"
                ]  # fmt: skip
                assert len(errors) == 1
                assert "the directory /boot of the root" in errors[0]["reason"]
            if script:
                assert not is_right
                assert part(done, "after") == "0\n"
        assert is_right, "the next boot is right"
        menu = f"/boot/{distribution.grub}/grub.cfg"
        done = machine.session(
            marked("right", "ephemeroot status")
            + f"sed -i -E 's|^linux \\S+|linux /left/boot/vmlinuz|' {menu}\n"
            + marked("wrong", "ephemeroot status; echo status $?")
        )
        print(done.text)
        said = f"{menu} starts /left/boot/vmlinuz from the directory /boot of the root"
        assert said not in part(done, "right")
        assert said in " ".join(part(done, "wrong").split())
        assert part(done, "wrong").endswith("status 10\n")


REPAIR = """\
hint=$(/usr/bin/python3 -c '
import json
(one,) = [p for p in json.load(open("/tmp/check"))["problems"] if p["severity"] == "error"]
print(one["hint"])')
echo "$hint"
eval "$(echo "$hint" | sed "s/^run .//; s/.$//")"
"""
