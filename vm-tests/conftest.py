"""Fixtures and rules of the tests that boot machines.

Console logs are written to `EPHEMEROOT_VM_LOGS` (default: `logs/` beside this file). The conftest
above decides what a skip means.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for runs without pyproject.toml

from vm import disk as disks
from vm import initramfs, loop, project
from vm.bench import Bench
from vm.cache import Cache
from vm.command import Unavailable
from vm.ephemeral import Ephemeral
from vm.ephemeral import make as make_ephemeral
from vm.image import debian_system
from vm.sandbox import enter_private_mounts
from vm.storage import Storage
from vm.storage import storage as make_storage
from vm.system import System
from vm.times import times
from vm.tools import tools
from vm.verdict import MachineLost
from vm.zfs import zfs_system

DiskFactory = Callable[..., disks.Disk]

_lost_machines: list[str] = []
_boots: list[tuple[int, float]] = []


def _logs() -> Path:
    return Path(os.environ.get("EPHEMEROOT_VM_LOGS") or Path(__file__).parent / "logs")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Remove the console logs of earlier runs; the workers of this run (pytest-xdist)
    share them.
    """
    if not hasattr(session.config, "workerinput") and not session.config.option.collectonly:
        for old in (*_logs().glob("*.log"), *_logs().glob("*.journal")):
            old.unlink()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    if call.excinfo is not None and isinstance(call.excinfo.value, MachineLost):
        _lost_machines.append(f"{item.name}: {call.excinfo.value.reason}")
    return (yield)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the number of lost machines, which must be 0, and the time of all machines, which
    has a limit.
    """
    if config.option.collectonly or hasattr(config, "workerinput"):
        return
    terminalreporter.section("machines")
    for line in _lost_machines:
        terminalreporter.write_line(f"lost: {line}")
    boots = sum(number for number, _ in _boots)
    seconds = sum(up for _, up in _boots)
    terminalreporter.write_line(
        f"{boots} boots, up for {seconds:.0f} s, {len(_lost_machines)} lost"
    )
    for kind, spent in times.seconds.items():
        terminalreporter.write_line(f"{kind}: {spent:.0f} s")
    times.record()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist passes its results on at the end."""
    handed = getattr(session.config, "workeroutput", None)
    if handed is not None:
        handed["machines"] = (_lost_machines, _boots, times.seconds)
        return


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """The main process receives them."""
    lost, boots, seconds = getattr(node, "workeroutput", {}).get("machines", ((), (), {}))
    _lost_machines.extend(lost)
    _boots.extend(boots)
    times.add(seconds)


@pytest.fixture(scope="session")
def cache() -> Cache:
    """The cache, in a private mount namespace of this run; skips where machines cannot be made."""
    try:
        loop.require()
        enter_private_mounts()
    except (Unavailable, PermissionError) as error:
        pytest.skip(f"no machines here: {error}")
    return Cache.from_environment()


@pytest.fixture(scope="session")
def bench(cache: Cache) -> Iterator[Bench]:
    """Runs machines, each within one test."""
    yield from _make_bench(cache)


@pytest.fixture(scope="module")
def lasting_bench(cache: Cache) -> Iterator[Bench]:
    """Runs a machine that the tests of a module share; no test of it may boot another."""
    yield from _make_bench(cache)


def _make_bench(cache: Cache) -> Iterator[Bench]:
    try:
        made = Bench(cache, tools(cache), _logs())
    except Unavailable as error:
        pytest.skip(f"no machines here: {error}")
    yield made
    made.close()
    _boots.append((made.boots, made.seconds))


@pytest.fixture(scope="session")
def image(cache: Cache) -> System:
    """The Debian system without the project."""
    try:
        return debian_system(cache)
    except Unavailable as error:
        pytest.skip(f"no machines here: {error}")


@pytest.fixture(scope="session")
def zfs_debian(cache: Cache) -> System:
    """The Debian system with ZFS, without the project."""
    try:
        return zfs_system(cache)
    except Unavailable as error:
        pytest.skip(f"no ZFS here: {error}")


@pytest.fixture(scope="session")
def wheel(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, for tests of an installation with pip."""
    try:
        return project.wheel(cache, tmp_path_factory.mktemp("wheel"))
    except Unavailable as error:
        pytest.skip(f"nothing to install in a machine: {error}")


@pytest.fixture(scope="session")
def package(cache: Cache) -> Path:
    """The project's Debian package."""
    try:
        return project.debian_package(cache)
    except Unavailable as error:
        pytest.skip(f"nothing to install in a machine: {error}")


@pytest.fixture(scope="session")
def plain_initrd(cache: Cache, image: System) -> Path:
    """The initramfs of that system."""
    return initramfs.make(cache, image)


@pytest.fixture(scope="session")
def ephemeral(cache: Cache, image: System, package: Path) -> Ephemeral:
    """The system with the project, configured and applied."""
    return make_ephemeral(cache, image, package)


@pytest.fixture(scope="session")
def storage(bench: Bench, package: Path) -> Storage:
    """Machines on LVM, LUKS, MD, and their disks; one boot makes all of these."""
    try:
        return make_storage(bench, package)
    except Unavailable as error:
        pytest.skip(f"no machines here: {error}")


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """The test's name, usable as a file name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", request.node.name).strip("-")


@pytest.fixture
def scratch(cache: Cache) -> Iterator[Path]:
    """A folder beside the cache (where copies can be reflinks), removed after the test."""
    with cache.scratch("test") as folder:
        yield folder


@pytest.fixture
def disk(bench: Bench, scratch: Path, image: System) -> DiskFactory:
    """`disk(layout=Btrfs(), system=image)`: a fresh copy of the prepared disk of that layout."""

    def make(layout: disks.Layout | None = None, system: System | None = None) -> disks.Disk:
        source = disks.prepared(bench.cache, layout or disks.Btrfs(), bench.tools, system or image)
        number = len(list(scratch.glob("*.raw")))
        return source.copy(scratch / f"disk{number}.raw")

    return make


@pytest.fixture(autouse=True)
def _no_machine_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "bench" in request.fixturenames:
        request.getfixturevalue("bench").close()
