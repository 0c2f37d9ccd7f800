"""Requirements of tests, for `tests/` and `vm-tests/` alike.

A test names its requirements with markers: ``requires_root``, ``requires_loop``,
``requires_program("NAME")``. If one is not met, the test is skipped with a message that says what
to provide. Under ``EPHEMEROOT_REQUIRE_ALL=1`` (CI) a skip is a failure, whatever its reason: a test
that did not run proves nothing.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

import ephemeroot

CHECKOUT = Path(__file__).resolve().parent

OPTIONAL_PROGRAMS = {
    "mkinitcpio": "it is not in Debian's archive: put version 40 or newer in PATH, or name the "
    "prefix of one in MKINITCPIO_PREFIX",
    "mkinitcpio-nfs-utils": "it is not in Debian's archive: install its hook 'net' beside "
    "mkinitcpio's hooks",
}
"""Programs that may be missing in every run, with a message that says what to provide. There are no
other exceptions.
"""

CAP_SYS_ADMIN = 21


def missing_root() -> str | None:
    """The requirement that is not met if this process may not mount, otherwise ``None``."""
    if os.geteuid() != 0:
        return "needs root: run it with sudo, or as root"
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:") and not int(line.split()[1], 16) >> CAP_SYS_ADMIN & 1:
            return "needs root with CAP_SYS_ADMIN: give it to the container (--privileged)"
    return None


def missing_program(name: str) -> str | None:
    """The requirement that is not met if the program *name* is not in PATH, otherwise ``None``."""
    return None if shutil.which(name) else _needs_program(name)


def missing_loop() -> str | None:
    """The requirement that is not met if no btrfs can be mounted from an image file, otherwise
    ``None``.
    """
    if missing := missing_root() or missing_program("mkfs.btrfs") or missing_program("losetup"):
        return missing
    if not Path("/dev/loop-control").exists():
        return "needs loop devices: load the module loop, give the container /dev/loop*"
    if "\tbtrfs\n" not in Path("/proc/filesystems").read_text():
        # A kernel with modules lists the filesystem only after its module is loaded.
        if shutil.which("modprobe") is None or subprocess.run(["modprobe", "btrfs"]).returncode:
            return "needs a kernel that knows btrfs: load its module"
    return None


def _needs_program(name: str) -> str:
    hint = OPTIONAL_PROGRAMS.get(name, "install the package that has it")
    return f"needs the program {name}: {hint}"


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to test an incomplete package: `python -m pytest` puts the checkout on the path."""
    if Path(ephemeroot.__file__).parent == CHECKOUT / "ephemeroot":
        raise pytest.UsageError(
            "this imports the checkout's folder ephemeroot, which lacks hooks and wipers; run "
            ".venv/bin/pytest, or set PYTHONSAFEPATH=1 (tools/setup test installs both)"
        )
    # A shell makes its background jobs ignore SIGINT, and then all programs that tests interrupt
    # would ignore it, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("requires_root"):
        _skip_if(missing_root())
    if item.get_closest_marker("requires_loop"):
        _skip_if(missing_loop())
    for marker in item.iter_markers("requires_program"):
        _skip_if(missing_program(*marker.args))


def _skip_if(missing: str | None) -> None:
    if missing is not None:
        pytest.skip(missing)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure if every requirement must be met."""
    if os.environ.get("EPHEMEROOT_REQUIRE_ALL", "0") in ("", "0"):
        return
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = str(report.longrepr)
    if isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
    if any(reason == _needs_program(name) for name in OPTIONAL_PROGRAMS):
        return
    report.outcome = "failed"
    report.longrepr = f"skipped, but EPHEMEROOT_REQUIRE_ALL=1 lets nothing be skipped: {reason}"
