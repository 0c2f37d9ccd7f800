"""The present Debian unstable: the newest dracut, systemd and kernel.

This is not one of the tests that every change must pass, because unstable changes every day: `make
vm-test BOOTS=unstable`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ephemeroot.image import archive, contents
from ephemeroot.image.generators.dracut.images import Image
from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.command import Unavailable
from vm.disk import Disk
from vm.ephemeral import Ephemeral, make
from vm.image import UNSTABLE, debian_system
from vm.inits import WITHOUT_SYSTEMD
from vm.wiped import require_wiped_once

DiskFactory = Callable[..., Disk]

pytestmark = pytest.mark.unstable


@pytest.fixture(scope="session")
def ephemeral(cache: Cache, package: Path) -> Ephemeral:
    """Debian unstable with the project, configured and applied."""
    try:
        return make(cache, debian_system(cache, UNSTABLE), package)
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
    """Only a boot shows the newest dracut, systemd and kernel."""
    initrd = ephemeral.initrd(cache, options)
    plan = contents.PLAN.lstrip("/")
    found = archive.read(initrd, lambda name: name == plan)
    print(Image(initrd, kernel="").read_back(initrd, found.files[plan]))
    target = disk(ephemeral.layout(), ephemeral.system)
    with target.mounted() as top:
        (top / "root/etc/lost").write_text("")
        (top / "root/var/log/installer").write_text("worth keeping\n")
    machine = bench.up(Boot(ephemeral.system, initrd, (target,)), name)
    require_wiped_once(machine)
    print(machine.run("dpkg-query -W dracut-core systemd python3; uname -r").out)
    assert machine.run("ls /etc/lost", check=False).rc != 0
    assert machine.read("/var/log/installer") == b"worth keeping\n"
    assert machine.poweroff().complaints == ()
