"""Requirements of tests: a skip says what to provide, and CI allows no skip."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from checkout import CHECKOUT

# Without root's powers, but with permission to read every file: the checkout may be in /root.
AS_NOBODY = (
    "setpriv", "--reuid=65534", "--clear-groups",
    "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",
)  # fmt: skip

PROBE = """
import pytest

@pytest.mark.requires_program("mkinitcpio-that-nobody-has")
def test_program():
    assert False, "ran without its program"

@pytest.mark.requires_root
def test_root():
    pass

def test_skip():
    pytest.skip("because")

@pytest.mark.xfail(reason="known", strict=True)
def test_expected_failure():
    assert False
"""


def pytest_on(tree: Path, *, require_all: bool, prefix: tuple[str, ...] = ()) -> tuple[int, str]:
    """Run the probe with our conftest; return pytest's exit status and output."""
    shutil.copy(CHECKOUT / "conftest.py", tree)
    shutil.copy(CHECKOUT / "pyproject.toml", tree)
    environment = {k: v for k, v in os.environ.items() if k != "PYTEST_ADDOPTS"}
    environment["EPHEMEROOT_REQUIRE_ALL"] = "1" if require_all else "0"
    command = [
        *prefix,
        sys.executable,
        "-P",
        "-B",
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        str(tree),
    ]
    run = subprocess.run(
        command, cwd=tree, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return run.returncode, run.stdout


def test_a_skip_says_what_to_provide(tmp_path: Path) -> None:
    (tmp_path / "test_probe.py").write_text(PROBE)
    status, output = pytest_on(tmp_path, require_all=False)
    assert status == 0, output
    assert "needs the program mkinitcpio-that-nobody-has: install" in output
    assert "because" in output


def test_a_skip_fails_where_all_is_required(tmp_path: Path) -> None:
    (tmp_path / "test_probe.py").write_text(PROBE)
    status, output = pytest_on(tmp_path, require_all=True)
    assert status == 1, output
    assert "ERROR" in output
    assert "test_probe.py::test_skip" in output
    assert "lets nothing be skipped: because" in output
    assert "lets nothing be skipped: needs the program mkinitcpio-that-nobody-has" in output
    assert "1 xfailed" in output


def test_a_skipped_module_fails_where_all_is_required(tmp_path: Path) -> None:
    (tmp_path / "test_probe.py").write_text('import pytest\npytest.importorskip("no_such_thing")\n')
    assert pytest_on(tmp_path, require_all=False)[0] in (0, 5)
    status, output = pytest_on(tmp_path, require_all=True)
    assert status not in (0, 5), output
    assert "lets nothing be skipped" in output


def test_optional_programs_may_be_absent(tmp_path: Path) -> None:
    if shutil.which("mkinitcpio"):
        probe = PROBE  # nothing is optional here; the general rule still applies
    else:
        probe = PROBE.replace("mkinitcpio-that-nobody-has", "mkinitcpio")
    (tmp_path / "test_probe.py").write_text(probe)
    status, output = pytest_on(tmp_path, require_all=True)
    assert status == 1, output
    skipped = "lets nothing be skipped: needs the program mkinitcpio:"
    assert skipped not in output


@pytest.mark.requires_root
@pytest.mark.requires_program("setpriv")
def test_says_that_root_is_needed(tmp_path: Path) -> None:
    (tmp_path / "test_probe.py").write_text(PROBE)
    status, output = pytest_on(tmp_path, require_all=False, prefix=AS_NOBODY)
    assert status == 0, output
    assert "needs root: run it with sudo, or as root" in output


def test_refuses_an_incomplete_package(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests"],
        cwd=CHECKOUT, env={**os.environ, "PYTHONSAFEPATH": ""}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert run.returncode == 4, run.stdout
    assert "lacks hooks and wipers" in run.stdout
