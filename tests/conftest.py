"""Fixtures of the tests that mount: a private mount namespace, and boots to run stages in."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

import programs
import proof
from checkout import CHECKOUT
from ephemeroot.image import bundle

if TYPE_CHECKING:
    from pathlib import Path

    from btrfs_image import Disk, Site
    from ordinary_user import OrdinaryUser
    from verb_machine import Image

# The time of an example only says how busy the machine is. In CI the examples are always the same:
# new ones are searched for during development, where a failure belongs to the change at hand.
settings.register_profile(
    "any",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    max_examples=proof.rounds(40, 1000),
)
settings.register_profile("ci", settings.get_profile("any"), derandomize=True)
settings.load_profile("ci" if os.environ.get("EPHEMEROOT_REQUIRE_ALL") else "any")

CLONE_NEWNS = 0x00020000
MS_REC_PRIVATE = 16384 | 1 << 18


@pytest.fixture(scope="session", autouse=True)
def private_mounts(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Move this process into a private mount namespace: no mount is visible on the host.

    The temporary folders of the tests are in memory there: the tests write and flush images, and
    trees that are too deep for pytest to remove end with the namespace. To inspect them afterwards,
    set PYTEST_DEBUG_TEMPROOT; then they are on disk.

    This runs first, once for the whole session: a mount that a module's fixture made earlier would
    stay in the host's namespace, and pytest would later delete its content. Without root, mounting
    is not possible; the tests that need it say so.
    """
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        number = ctypes.get_errno()
        if number == errno.EPERM:
            return
        raise OSError(number, os.strerror(number))
    if libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC_PRIVATE), None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if "PYTEST_DEBUG_TEMPROOT" not in os.environ:
        folder = tmp_path_factory.getbasetemp()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "none", folder], check=True)


@pytest.fixture(scope="session", autouse=True)
def _server_of_programs(private_mounts: None) -> Iterator[None]:
    """It runs in the mount namespace of this session, and ends with it."""
    yield
    programs.close()


@pytest.fixture(scope="session", autouse=True)
def _modules_compiled_once() -> Iterator[None]:
    """Compiling the modules takes half of the time of making an image: each test process compiles
    each content only once.
    """
    compiled = bundle.compiled
    known: dict[tuple[bundle.Source, bytes], bytes] = {}

    def remembered(source: bundle.Source) -> bytes:
        key = source, source.source.read_bytes()
        if key not in known:
            known[key] = compiled(source)
        return known[key]

    bundle.compiled = remembered
    yield
    bundle.compiled = compiled


@pytest.fixture(scope="session")
def verb_image(private_mounts: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The machine of `verb_machine`, in memory: its writes need not reach a disk."""
    from verb_machine import Image

    folder = tmp_path_factory.mktemp("verbs")
    subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
    yield Image(folder)
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def deep_trees(tmp_path: Path) -> Iterator[Path]:
    """``tmp_path`` for trees deeper than Python's recursion limit, with which pytest cannot remove
    old folders: they are removed at the end, even if the test fails.
    """
    yield tmp_path
    for name in os.listdir(tmp_path):
        subprocess.run(["rm", "-rf", tmp_path / name], check=True)


@pytest.fixture(scope="session")
def _readable_package(private_mounts: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ordinary_user import readable_package

    return readable_package(tmp_path_factory.mktemp("package") / "ephemeroot")


@pytest.fixture
def user(_readable_package: Path) -> Iterator[OrdinaryUser]:
    """The user of `ordinary_user`, with an empty home and an empty store."""
    from ordinary_user import OrdinaryUser

    made = OrdinaryUser(_readable_package)
    yield made
    made.close()


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist and the wheel, and the output of ``twine check``."""
    folder = tmp_path_factory.mktemp("release") / "files"
    made = subprocess.run([CHECKOUT / "tools/release", folder], capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    (folder.parent / "checked").write_text(made.stdout)
    return folder


@pytest.fixture(scope="module")
def disk(private_mounts: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    """A btrfs for the tests of a module."""
    from btrfs_image import fresh_disk

    with fresh_disk(tmp_path_factory.mktemp("btrfs")) as disk:
        yield disk


@pytest.fixture
def site(disk: Disk) -> Site:
    """A folder with a root for one test, on the disk of its module."""
    return disk.site().with_root()
