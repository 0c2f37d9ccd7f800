"""The same wheel on Debian 12: dracut 059, Linux 6.1, Python 3.11; with systemd and without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.command import Unavailable
from vm.disk import Disk
from vm.ephemeral import Ephemeral, make
from vm.image import DEBIAN_12, debian_system
from vm.inits import WITHOUT_SYSTEMD
from vm.wiped import require_wiped_once

DiskFactory = Callable[..., Disk]


@pytest.fixture(scope="session")
def ephemeral(cache: Cache, wheel: Path) -> Ephemeral:
    """Debian 12 with the project, configured and applied."""
    try:
        return make(cache, debian_system(cache, DEBIAN_12), wheel)
    except Unavailable as error:
        pytest.skip(f"no machines here: {error}")


@pytest.mark.parametrize("options", [(), WITHOUT_SYSTEMD], ids=["systemd", "shell"])
def test_wiped_and_persisted(
    bench: Bench,
    cache: Cache,
    ephemeral: Ephemeral,
    disk: DiskFactory,
    name: str,
    options: tuple[str, ...],
) -> None:
    target = disk(ephemeral.layout(), ephemeral.system)
    with target.mounted() as top:
        (top / "root/etc/lost").write_text("")
        (top / "root/var/log/installer").write_text("worth keeping\n")
    machine = bench.up(Boot(ephemeral.system, ephemeral.initrd(cache, options), (target,)), name)
    require_wiped_once(machine)
    assert machine.run("ls /etc/lost", check=False).rc != 0
    assert machine.read("/var/log/installer") == b"worth keeping\n"
    machine.run("systemctl is-active ephemeroot-lived.service")
    assert machine.poweroff().complaints == ()
    with target.mounted() as top:
        assert len(list((top / "old_roots").iterdir())) == 1
