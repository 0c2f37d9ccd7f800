"""The tutorials: their commands run unchanged, on a disk as the distribution's installer leaves it.

They are the commands that `ephemeroot init` prints there, in the same order, between the same
reboots. The tutorial for Debian is run by whole boots (vm-tests/test_conversion.py).
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import distributions
from checkout import CHECKOUT
from live_machine import REBOOT, LiveMachine, init, live_machine

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]

DOCS = CHECKOUT / "docs"

TUTORIALS = {
    "docs/converting-fedora.md": "Fedora, btrfs, entries",
    "docs/converting-arch.md": "Arch, archinstall, systemd-boot",
    "docs/converting-opensuse.md": "openSUSE Tumbleweed, GRUB",
}

PACKAGED = {
    "docs/converting-arch.md": "ephemeroot setup mkinitcpio",
    "docs/converting-fedora.md": "ephemeroot setup dracut",
    "docs/converting-opensuse.md": "ephemeroot setup dracut",
}
"""The files of the distribution's package, which step 1 installs."""

# There is no terminal to answer on, and the imitated system has no initramfs.
UNATTENDED = {"ephemeroot apply": "ephemeroot apply --yes --no-images"}


def boots(document: str) -> list[list[str]]:
    """The commands that are not illustrations, grouped by reboot."""
    text = (DOCS.parent / document).read_text()
    lines = "".join(re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)).splitlines()
    parts = "\n".join(lines).split("\nreboot")
    assert parts.pop() == "", "the last command is a reboot"
    return [[*part.strip().splitlines(), "reboot"] for part in parts]


def run(machine: LiveMachine, commands: list[str]) -> None:
    script = "".join(
        f"echo {shlex.quote('$ ' + one)}\n{UNATTENDED.get(one, one)}\n" for one in commands
    )
    done = machine.session(f"set -e\n{script}")
    assert done.status == (REBOOT if commands[-1] == "reboot" else 0), done.text


@pytest.mark.parametrize("document", TUTORIALS)
def test_the_commands_of_a_tutorial_are_those_of_init_and_run(
    document: str, tmp_path: Path
) -> None:
    (mine,) = [one for one in distributions.ALL if one.name == TUTORIALS[document]]
    with live_machine(mine, tmp_path) as machine:
        if document in PACKAGED:
            run(machine, [PACKAGED[document]])
        for commands in boots(document):
            told = [line.replace("UUID=…", f"UUID={machine.uuids['']}") for line in commands]
            assert [line for line in told if line != "ephemeroot init"] == init(machine)
            run(machine, told)
        assert "ephemeroot apply" in commands
