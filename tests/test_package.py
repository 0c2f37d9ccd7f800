"""The wheel, as people install it: one package, nothing beside it, a console script."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from email.parser import Parser
from pathlib import Path

import pytest

import ephemeroot

CHECKOUT = Path(__file__).resolve().parent.parent

SOURCES = (
    "LICENSE", "README.md", "pyproject.toml",
    "dracut", "ephemeroot", "hooks", "man", "mkinitcpio", "systemd", "wipers",
)  # fmt: skip


def run(command: Sequence[str | Path], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program with nothing of this checkout in its environment."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_"))}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources without any download."""
    tree = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        source = CHECKOUT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source, tree / name, ignore=ignored)
        elif source.exists():
            shutil.copy(source, tree)
    built = run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet",
         "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "."],
        tree,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    (path,) = (tree / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a new virtual environment that has this wheel and no more."""
    folder = tmp_path_factory.mktemp("environment")
    made = run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], folder)
    assert made.returncode == 0, made.stdout + made.stderr
    programs = folder / "venv" / "bin"
    done = run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python",
         programs / "python", "install", "--no-index", "--no-deps", wheel],
        folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return programs


def metadata(wheel: Path, name: str) -> str:
    """The text of a file in the wheel's dist-info."""
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (n for n in archive.namelist() if n.endswith(f".dist-info/{name}"))
        return archive.read(path).decode()


def test_one_package_and_nothing_beside_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        top = {name.split("/")[0] for name in archive.namelist()}
        data = {name for name in archive.namelist() if ".data/" in name}
    name = f"ephemeroot-{ephemeroot.__version__}"
    assert top == {"ephemeroot", f"{name}.dist-info", f"{name}.data"}
    pages = {path.name: path.suffix[1:] for path in (CHECKOUT / "man").iterdir()}
    assert pages
    assert data == {f"{name}.data/data/share/man/man{pages[page]}/{page}" for page in pages}


def test_every_module_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.endswith(".py")}
    expected = {str(p.relative_to(CHECKOUT)) for p in CHECKOUT.glob("ephemeroot/**/*.py")}
    for folder in ("hooks", "wipers"):
        modules = CHECKOUT.glob(f"{folder}/**/*.py")
        expected |= {f"ephemeroot/{path.relative_to(CHECKOUT)}" for path in modules}
    assert packed == expected
    assert {"ephemeroot/hooks/plan.py", "ephemeroot/wipers/contract.py"} <= packed


def test_what_is_installed_elsewhere_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if not name.endswith(".py")}
    expected = {"ephemeroot/image/boot.sh"}
    for folder in ("dracut", "mkinitcpio", "systemd"):
        files = (path for path in CHECKOUT.glob(f"{folder}/**/*") if path.is_file())
        expected |= {f"ephemeroot/{path.relative_to(CHECKOUT)}" for path in files}
    assert expected <= packed


def test_it_is_typed_and_licensed(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert "ephemeroot/py.typed" in archive.namelist()
    about = Parser().parsestr(metadata(wheel, "METADATA"))
    assert about["License-Expression"] == "MIT"
    assert "MIT License" in metadata(wheel, "licenses/LICENSE")


def test_what_it_depends_on(wheel: Path) -> None:
    about = Parser().parsestr(metadata(wheel, "METADATA"))
    required = about.get_all("Requires-Dist", [])
    always = {line for line in required if "extra ==" not in line}
    assert {line.split(">")[0] for line in always} == {"pyudev", "pyroute2"}
    assert set(about.get_all("Provides-Extra", [])) == {"btrfs", "zfs"}


def test_entry_points(wheel: Path) -> None:
    lines = metadata(wheel, "entry_points.txt").splitlines()
    assert "ephemeroot = ephemeroot.cli:main" in lines
    assert "[ephemeroot.wipers]" in lines
    assert "btrfs = ephemeroot.wipers.btrfs:Btrfs" in lines


@pytest.mark.parametrize("name", ["hooks", "wipers"])
def test_no_top_level_module(installed: Path, tmp_path: Path, name: str) -> None:
    bare = run([installed / "python", "-c", f"import {name}"], tmp_path)
    assert bare.returncode == 1
    assert f"No module named '{name}'" in bare.stderr
    inside = run([installed / "python", "-c", f"import ephemeroot.{name}"], tmp_path)
    assert inside.returncode == 0, inside.stderr


@pytest.mark.parametrize("name", ["hooks", "wipers"])
def test_no_top_level_module_in_the_editable_install(tmp_path: Path, name: str) -> None:
    bare = run([sys.executable, "-c", f"import {name}"], tmp_path)
    assert bare.returncode == 1
    assert f"No module named '{name}'" in bare.stderr


def test_wipers_are_found_and_their_library_is_not_needed(installed: Path, tmp_path: Path) -> None:
    # btrfsutil is not installed here: describing a wiper must not ask for it.
    program = (
        "from importlib.metadata import entry_points\n"
        "for point in entry_points(group='ephemeroot.wipers'):\n"
        "    kind = point.load()\n"
        "    print(point.name, kind.NAME, kind.API, len(kind.OPTIONS) > 0)\n"
    )
    found = run([installed / "python", "-c", program], tmp_path)
    assert sorted(found.stdout.splitlines()) == [
        "btrfs btrfs 1 True",
        "overlay overlay 1 True",
        "tmpfs tmpfs 1 True",
        "zfs zfs 1 True",
    ], found.stderr


def test_the_console_script_works(installed: Path, tmp_path: Path) -> None:
    script = installed / "ephemeroot"
    asked = run([script, "--help"], tmp_path)
    assert asked.returncode == 0, asked.stderr
    assert "check" in asked.stdout
    assert "plan" in asked.stdout
    wrong = run([script, "no-such-verb"], tmp_path)
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr
