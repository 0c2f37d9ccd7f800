"""Which device, subvolume or dataset is the root: the order of the sources that name it."""

from __future__ import annotations

import itertools

import pytest

from ephemeroot.config import Machine
from ephemeroot.machine import fstab
from ephemeroot.machine.root import Root

CONFIGURED = {"": (None, None), "both": ("LABEL=configured", "configured"),
              "device": ("LABEL=configured", None)}  # fmt: skip
LINES = {
    "": None,
    "both": "root=LABEL=line rootflags=subvol=/line,noatime",
    "device": "root=LABEL=line ro",
    "dataset": "root=zfs:tank/root ro",
}
FSTABS = {
    "": "",
    "both": "LABEL=fstab / btrfs subvol=/fstab/,noatime 0 0\n",
    "device": "LABEL=fstab / ext4 defaults 0 0\nLABEL=other /srv btrfs subvol=other 0 0\n",
}


def root(configured: str, line: str, table: str) -> Root:
    text = LINES[line]
    next_one = ("/etc/kernel/cmdline", "root=LABEL=z")
    lines = () if text is None else (("/proc/cmdline", text), next_one)
    machine = Machine(fstab=tuple(fstab.parse(FSTABS[table])), command_lines=lines)
    return Root.named(machine, *CONFIGURED[configured])


@pytest.mark.parametrize(
    ("configured", "line", "table"), list(itertools.product(CONFIGURED, LINES, FSTABS))
)
def test_the_configuration_precedes_the_command_line_which_precedes_fstab(
    configured: str, line: str, table: str
) -> None:
    found = root(configured, line, table)
    devices = ["LABEL=configured"] * bool(configured)
    devices += ["LABEL=line"] * (line in ("both", "device"))
    # The command line for future kernels names the root if that of the running kernel does not.
    devices += ["LABEL=z"] * bool(line) + ["LABEL=fstab"] * bool(table)
    assert found.device == (devices[0] if devices else None)
    subvolumes = [name for name, said in (("configured", configured), ("line", line),
                                          ("fstab", table)) if said == "both"]  # fmt: skip
    assert found.subvolume == (subvolumes[0] if subvolumes else None)


def test_uses_the_command_line_literally() -> None:
    assert root("both", "both", "both").flags == ("subvol=/line", "noatime")
    assert root("both", "both", "both").argument == "LABEL=line"
    assert root("", "dataset", "").argument == "zfs:tank/root"
    assert root("", "", "both").argument is None
    assert root("", "", "both").flags == ()


def test_an_empty_subvolume_falls_through_to_the_next_source() -> None:
    machine = Machine(
        fstab=tuple(fstab.parse(FSTABS["both"])),
        command_lines=(("/proc/cmdline", "root=LABEL=line rootflags=subvol=/"),),
    )
    assert Root.named(machine).subvolume == "fstab"
