"""Warnings for an overlay root: swap files, and programs that install upgrades automatically."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ephemeroot.config import Machine, Problem, examine, read

OVERLAY = """\
[root]
wiper = "overlay"

[[volumes]]
mount-point = "/persistent"
device = "LABEL=root"
type = "ext4"
options = ["X-mount.subdir=persistent"]

[persistence."/persistent"]
directories = ["/var/log"]
"""
PERIODIC = "etc/apt/apt.conf.d/20auto-upgrades"
WANTS = "etc/systemd/system/timers.target.wants"

UPGRADERS = {
    PERIODIC: 'APT::Periodic::Update-Package-Lists "1";\nAPT::Periodic::Unattended-Upgrade "1";\n',
    f"{WANTS}/dnf-automatic.timer": "",
    f"{WANTS}/dnf5-automatic.timer": "",
    "etc/systemd/system/timers.target.wants/transactional-update.timer": "",
}
IDLE = {
    PERIODIC: 'APT::Periodic::Unattended-Upgrade "0";\n',
    f"{WANTS}/apt-daily-upgrade.timer": "",
    "etc/systemd/system/dnf-automatic.timer": "",
}


def problems(root: Path, files: dict[str, str], configuration: str) -> Sequence[Problem]:
    everything = {
        "etc/fstab": "LABEL=root / ext4 defaults 0 1\n",
        "etc/ephemeroot/ephemeroot.toml": configuration,
        **files,
    }
    for name, text in everything.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "persistent").mkdir(exist_ok=True)
    machine = Machine.of(str(root))
    return examine(read(machine, None), machine).problems


def warnings(root: Path, files: dict[str, str], configuration: str = OVERLAY) -> str:
    found = problems(root, files, configuration)
    assert all(one.warning for one in found), [str(one) for one in found]
    return "\n".join(str(one) for one in found)


def refusals(root: Path, files: dict[str, str], configuration: str = OVERLAY) -> str:
    found = problems(root, files, configuration)
    return "\n".join(str(one) for one in found if not one.warning)


@pytest.mark.parametrize("name", UPGRADERS)
def test_names_a_program_that_installs_upgrades_automatically(tmp_path: Path, name: str) -> None:
    said = warnings(tmp_path, {name: UPGRADERS[name]})
    assert "installs upgrades automatically, into a layer that the next boot forgets" in said
    assert "ephemeroot next-boot keep" in said


@pytest.mark.parametrize("name", IDLE)
def test_does_not_mention_a_unit_that_is_disabled(tmp_path: Path, name: str) -> None:
    assert "upgrades" not in warnings(tmp_path, {name: IDLE[name]})


@pytest.mark.parametrize("place", ["/swap.img", "/var/swapfile", "/persistent/swap.img"])
def test_names_a_swap_file_on_the_root(tmp_path: Path, place: str) -> None:
    file = tmp_path / place[1:]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"\0" * 4086 + b"SWAPSPACE2")
    fstab = f"LABEL=root / ext4 defaults 0 1\n{place} none swap sw 0 0\n"
    said = warnings(tmp_path, {"etc/fstab": fstab})
    assert (f"the swap file {place} is on the root" in said) == ("persistent" not in place)


def test_refuses_a_boot_directory_that_is_not_a_volume(tmp_path: Path) -> None:
    assert "X-mount.subdir=boot" in refusals(tmp_path, {"boot/vmlinuz-1": "x"})
    volume = (
        '[[volumes]]\nmount-point = "/boot"\ndevice = "LABEL=root"\ntype = "ext4"\n'
        'options = ["X-mount.subdir=boot"]\n\n[persistence.'
    )
    warnings(tmp_path, {"boot/vmlinuz-1": "x"}, OVERLAY.replace("[persistence.", volume))


def test_refuses_a_missing_directory_of_the_root(tmp_path: Path) -> None:
    missing = OVERLAY.replace("subdir=persistent", "subdir=elsewhere")
    said = refusals(tmp_path, {}, missing)
    assert "cannot mount /persistent: the directory" in said
    assert f"mkdir -p {tmp_path}/elsewhere" in said
    (tmp_path / "elsewhere").mkdir()
    assert refusals(tmp_path, {}, missing) == ""


def test_refuses_a_directory_of_a_network_filesystem(tmp_path: Path) -> None:
    changed = OVERLAY.replace('"LABEL=root"', '"192.0.2.1:/x"').replace('"ext4"', '"nfs4"')
    assert "cannot mount a directory of nfs4" in refusals(tmp_path, {}, changed)
