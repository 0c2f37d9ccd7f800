"""`check` and the boot agree on the names of datasets, and on the network.

This covers every decision that needs no pool or server: generated names of root, base and
old-roots, and generated addresses that are set up on a real link.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

import pytest

import proof
from ephemeroot.errors import Refused, StoreMissing
from ephemeroot.hooks.operations.network import Network
from ephemeroot.wipers.contract import Boot
from ephemeroot.wipers.zfs import Zfs, channel
from machine_tree import MAIN, ROOT, STORE, MachineTree
from network_cable import Cable, cable

__all__ = ["cable"]

NAMES = ("tank", "tank/ROOT", "tank/ROOT/debian", "tank/ROOT/debian/base", "tank/ROOT/base",
         "tank/ROOT/old-roots", "tank/ROOT/old-roots/base", "other/base",
         f"tank/{'x' * 240}")  # fmt: skip
DATASETS = list(itertools.product(NAMES, (None, *NAMES), (None, *NAMES), (True, False)))
"""Root, base (a rotation if there is one), old-roots, and whether the table names the root."""


def settings_of(root: str, base: str | None, old_roots: str | None, named: bool) -> str:
    wanted = {"mode": "rotate" if base else None, "dataset": root if named else None,
              "base": base, "old-roots": old_roots}  # fmt: skip
    return "".join(f'{key} = "{value}"\n' for key, value in wanted.items() if value)


@pytest.mark.skipif(os.path.exists(channel.DEVICE), reason="this machine has ZFS")
def test_check_and_wiper_agree_on_names_of_datasets(tmp_path: Path) -> None:
    tree = MachineTree(tmp_path, None)
    tree.write("etc/fstab", "")
    differ = []
    verdicts = set()
    for root, base, old_roots, named in proof.sample(DATASETS, 40):
        line = f"root=zfs:{root} ro"
        tree.write("etc/kernel/cmdline", f"{line}\n")
        table = settings_of(root, base, old_roots, named)
        tree.write(
            MAIN,
            f'[root]\nwiper = "zfs"\nexternal-boot = true\n[root.zfs]\n{table}'
            '[[volumes]]\nmount-point = "/persistent"\ndevice = "kept/persistent"\n'
            f'type = "zfs"\n{STORE}',
        )
        errors = [str(problem) for problem in tree.errors()]
        settings: dict[str, object] = {option.name: option.default for option in Zfs.OPTIONS}
        settings |= {"mode": "rotate" if base else "rollback", "base": base,
                     "old-roots": old_roots, "dataset": root if named else None}  # fmt: skip
        if old_roots and not base:
            continue  # it has no effect, and check says so
        said = refusal(settings, root, tmp_path)
        if bool(errors) != bool(said):
            differ.append((table, line, errors, said))
        verdicts.add(bool(said))
    assert differ == [], "\n".join(map(str, differ))
    assert verdicts == {True, False}


def refusal(settings: dict[str, object], root: str, private: Path) -> str:
    """The refusal of the boot before it needs ZFS, which this machine lacks."""
    boot = Boot(
        device="", subvolume=None, target="/", private=str(private), boot_id="boot", now=0.0,
        synchronised=False, prove=lambda path: None, log=lambda line: None, root=f"zfs:{root}",
    )  # fmt: skip
    try:
        Zfs(settings).wipe(boot)
    except Refused as error:
        return "" if "is the kernel module zfs loaded" in error.message else error.message
    raise AssertionError("there is no ZFS here")


ADDRESSES = ("10.9.0.2/24", "10.9.0.0/24", "10.9.0.255/24", "10.9.0.2/31", "10.9.0.2/32",
             "127.0.0.5/8", "224.0.0.5/24", "0.0.0.0/24", "10.9.0.2/33", "10.9.0.2",
             "fd00::2/64", "::1/128", "ff02::2/64")  # fmt: skip
GATEWAYS = (None, "10.9.0.1", "10.9.0.2", "10.9.0.0", "10.9.0.255", "192.168.7.1", "127.0.0.1",
            "0.0.0.0", "224.0.0.1", "fd00::1", "fd00::", "fd00::2", "fe80::1",
            "nas.lan")  # fmt: skip
NETWORKS = list(itertools.product(ADDRESSES, GATEWAYS))
HARMFUL = ("10.9.0.0", "10.9.0.255", "127.0.0.", "224.", "::1/", "ff02:", "0.0.0.0", "fd00::")
"""The kernel accepts these addresses, and no machine answers at them."""


@pytest.mark.requires_root
@pytest.mark.requires_program("ip")
def test_check_and_boot_agree_on_the_network(tmp_path: Path, cable: Cable) -> None:
    cable.plug_in()
    tree = MachineTree(tmp_path, None)
    differ = []
    verdicts = set()
    for address, gateway in proof.sample(NETWORKS, 20, seed=2):
        server = "fd00::9" if ":" in address else "10.9.0.1"
        device = f"[{server}]" if ":" in server else server
        more = f'gateway = "{gateway}"\n' if gateway else ""
        tree.write(
            MAIN,
            f'{ROOT}[[volumes]]\nmount-point = "/persistent"\ndevice = "{device}:/srv"\n'
            f'type = "nfs4"\n{STORE}[network]\ninterface = "eth0"\naddress = "{address}"\n{more}',
        )
        errors = [str(problem) for problem in tree.errors()]
        works = sets_up(cable, address, gateway, server)
        verdicts.add(works)
        if not errors and not works:
            differ.append((address, gateway, "is accepted and fails"))
        harmful = address.startswith(HARMFUL[:-1]) or gateway in HARMFUL
        harmful = harmful or gateway == address.partition("/")[0]
        if errors and works and not harmful:
            differ.append((address, gateway, f"works and is refused: {errors}"))
    assert differ == [], "\n".join(map(str, differ))
    assert verdicts == {True, False}


def sets_up(cable: Cable, address: str, gateway: str | None, server: str) -> bool:
    """Whether the operation of the wipe stage succeeds on a link without an address, and a route
    leads to the server.
    """
    operation = Network(
        interface="eth0", addresses=[address], gateways=[gateway] if gateway else [], timeout=1
    )
    try:
        operation.execute(None)  # type: ignore[arg-type]  # it needs no stage
        found = subprocess.run(["ip", "route", "get", server], capture_output=True)
    except (StoreMissing, ValueError):
        return False
    finally:
        cable.empty()
    return found.returncode == 0
