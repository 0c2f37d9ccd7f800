"""Fixtures of the tests that mount: a mount namespace of their own, boots to run stages in."""

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

# How long an example takes says how busy the machine is, no more. Where everything must pass (CI)
# the examples are the same every time: new ones are looked for by whoever develops, not by chance
# in another owner's change.
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
    """Move this process into a mount namespace of its own: nothing leaks to the host.

    The temporary folders of the tests are in memory there: they write images and flush them, and
    trees that are deeper than pytest could remove go with the namespace. Who wants to look at them
    afterwards sets PYTEST_DEBUG_TEMPROOT; then they are on disk.

    Before anything else, for the whole session: a mount that a module's fixture made earlier
    would stay behind in the host's namespace, and pytest would one day delete its content.
    Without root nothing can be mounted either; the tests that need it say so.
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
    """Half of what an image takes is to compile the same modules: each process that tests does it
    once for each content.
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
    """The machine of `verb_machine`, in memory: what it writes need not reach a disk."""
    from verb_machine import Image

    folder = tmp_path_factory.mktemp("verbs")
    subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
    yield Image(folder)
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def deep_trees(tmp_path: Path) -> Iterator[Path]:
    """``tmp_path`` for trees deeper than Python recurses, as pytest does where it removes old
    folders: they are removed at the end, also of a test that fails.
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
    """The folder with the sdist and the wheel; beside it is what ``twine check`` printed."""
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
    """A place with a root for one test, on the disk of its module."""
    return disk.site().with_root()
