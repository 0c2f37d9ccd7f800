"""`on-failure` in dracut's two kinds of initramfs, with an interpreter and without: of each policy
what is shown nowhere else.

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
        ("systemd", "", ("reboot",)),
        ("systemd", NONE, ("keep", "poweroff")),
        ("shell", "", ("keep", "poweroff")),
        ("shell", NONE, ("emergency", "reboot")),
    ],
    ids=["systemd", "systemd-no-interpreter", "shell", "shell-no-interpreter"],
)
def test_the_policies_are_obeyed(
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
    initrd = ephemeral.initrd(cache, INITS[init])

    def boot() -> Boot:
        return Boot(ephemeral.system, initrd, (disk(ephemeral.layout(), ephemeral.system),))

    require_obeyed(bench, boot, name, scratch, policies, python=python)
