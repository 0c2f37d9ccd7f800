"""`on-failure` in dracut's two kinds of initramfs, with an interpreter and without: each policy
once in CI, the whole table in `make proof`.

With systemd, `keep` and `emergency` are in test_never_wipes, without it `emergency` is in
test_shell_init; mkinitcpio's two kinds are in test_mkinitcpio, Debian 12's in test_debian_12.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.disk import Disk
from vm.ephemeral import Ephemeral
from vm.inits import WITHOUT_SYSTEMD
from vm.policies import require_obeyed

DiskFactory = Callable[..., Disk]

INITS = {"systemd": (), "shell": WITHOUT_SYSTEMD}
NONE = "usr/bin/python3.13"


@pytest.mark.parametrize(
    ("init", "python", "policies"),
    [
        pytest.param("systemd", "", ("reboot",), id="systemd"),
        pytest.param("shell", NONE, ("emergency",), id="shell-no-interpreter"),
        pytest.param(
            "systemd",
            "",
            ("keep", "emergency", "poweroff"),
            id="systemd-rest",
            marks=pytest.mark.proof,
        ),
        pytest.param(
            "systemd",
            NONE,
            ("keep", "emergency", "reboot", "poweroff"),
            id="systemd-no-interpreter",
            marks=pytest.mark.proof,
        ),
        pytest.param(
            "shell",
            "",
            ("keep", "emergency", "reboot", "poweroff"),
            id="shell",
            marks=pytest.mark.proof,
        ),
        pytest.param(
            "shell",
            NONE,
            ("keep", "reboot", "poweroff"),
            id="shell-no-interpreter-rest",
            marks=pytest.mark.proof,
        ),
    ],
)
def test_follows_each_policy(
    bench: Bench,
    cache: Cache,
    ephemeral: Ephemeral,
    disk: DiskFactory,
    name: str,
    scratch: Path,
    init: str,
    python: str,
    policies: tuple[str, ...],
) -> None:
    """Only a boot shows what dracut's inits do after our unit or hook has failed."""
    initrd = ephemeral.initrd(cache, INITS[init])

    def boot() -> Boot:
        return Boot(ephemeral.system, initrd, (disk(ephemeral.layout(), ephemeral.system),))

    require_obeyed(bench, boot, name, scratch, policies, python=python)
