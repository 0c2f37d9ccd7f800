"""The wheel, as users install it: one package, no other top-level files, a console script."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Sequence
from email.parser import Parser
from pathlib import Path

import pytest

import ephemeroot
from checkout import CHECKOUT

COMPLETIONS = {
    "bash-completion/completions/ephemeroot",
    "fish/vendor_completions.d/ephemeroot.fish",
    "zsh/site-functions/_ephemeroot",
}
"""Where the shells look for them, below share."""

FOLDERS = ("dracut", "ephemeroot", "hooks", "mkinitcpio", "systemd", "wipers")
"""The sources of the wheel."""


def run(command: Sequence[str | Path], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program without the environment of this checkout."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_"))}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheel(release: Path) -> Path:
    """The wheel, built without any download."""
    (path,) = release.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a new virtual environment with only this wheel."""
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


def test_contains_one_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        top = {name.split("/")[0] for name in archive.namelist()}
        data = {name for name in archive.namelist() if ".data/" in name}
    name = f"ephemeroot-{ephemeroot.__version__}"
    assert top == {"ephemeroot", f"{name}.dist-info", f"{name}.data"}
    pages = {path.name: path.suffix[1:] for path in (CHECKOUT / "man").iterdir()}
    assert pages
    shared = {f"man/man{pages[page]}/{page}" for page in pages} | COMPLETIONS
    assert data == {f"{name}.data/data/share/{path}" for path in shared}


def tracked() -> set[str]:
    """The files of the package that git tracks, by their installed names. A source archive has no
    others.
    """
    if (CHECKOUT / ".git").exists():
        command = ["git", "-c", f"safe.directory={CHECKOUT}", "ls-files", "-z", *FOLDERS]
        listed = run(command, CHECKOUT)
        assert listed.returncode == 0, listed.stderr
        files = {name for name in listed.stdout.split("\0") if (CHECKOUT / name).is_file()}
    else:
        found = (path for folder in FOLDERS for path in (CHECKOUT / folder).rglob("*"))
        files = {str(p.relative_to(CHECKOUT)) for p in found if p.is_file()}
    names = {name if name.startswith("ephemeroot/") else f"ephemeroot/{name}" for name in files}
    return {name for name in names if "__pycache__" not in name}


@pytest.mark.requires_program("git")
def test_the_wheel_has_exactly_the_files_that_git_tracks(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("ephemeroot/")}
    expected = tracked()
    assert {"ephemeroot/hooks/plan.py", "ephemeroot/wipers/zfs/wiper.py"} <= expected
    assert packed == expected


@pytest.mark.requires_program("git")
def test_the_list_of_packages_names_each_folder_with_modules() -> None:
    settings = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["setuptools"]
    listed = set(settings["packages"])
    modules = {Path(name).parent for name in tracked() if name.endswith(".py")}
    assert {".".join(folder.parts) for folder in modules} <= listed
    folders = {parent for name in tracked() for parent in Path(name).parents}
    assert listed <= {".".join(folder.parts) for folder in folders}


@pytest.mark.requires_program("git")
def test_the_editable_install_has_each_module_and_no_stale_one() -> None:
    """After a module was added, moved or removed, run tools/setup again."""
    package = Path(ephemeroot.__file__).parent
    found = {str(path.relative_to(package.parent)) for path in package.rglob("*.py")}
    expected = {name for name in tracked() if name.endswith(".py")}
    assert found == expected, "run 'tools/setup test'"
    assert [path for path in package.rglob("*.py") if not path.exists()] == []


def test_the_package_is_typed_and_licensed(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert "ephemeroot/py.typed" in archive.namelist()
    about = Parser().parsestr(metadata(wheel, "METADATA"))
    assert about["License"] == "MIT"
    assert "MIT License" in metadata(wheel, "licenses/LICENSE")


def test_declares_its_dependencies(wheel: Path) -> None:
    about = Parser().parsestr(metadata(wheel, "METADATA"))
    required = about.get_all("Requires-Dist", [])
    always = {line for line in required if "extra ==" not in line}
    assert {line.split(">")[0] for line in always} == {"pyudev", "pyroute2"}
    assert set(about.get_all("Provides-Extra", [])) == {"btrfs", "zfs"}


def test_declares_its_entry_points(wheel: Path) -> None:
    lines = metadata(wheel, "entry_points.txt").splitlines()
    assert "ephemeroot = ephemeroot.cli:program" in lines
    assert "[ephemeroot.wipers]" in lines
    assert "btrfs = ephemeroot.wipers.btrfs:Btrfs" in lines


@pytest.mark.parametrize("name", ["hooks", "wipers"])
def test_the_wheel_has_no_top_level_module(installed: Path, tmp_path: Path, name: str) -> None:
    bare = run([installed / "python", "-c", f"import {name}"], tmp_path)
    assert bare.returncode == 1
    assert f"No module named '{name}'" in bare.stderr
    inside = run([installed / "python", "-c", f"import ephemeroot.{name}"], tmp_path)
    assert inside.returncode == 0, inside.stderr


@pytest.mark.parametrize("name", ["hooks", "wipers"])
def test_the_editable_install_has_no_top_level_module(tmp_path: Path, name: str) -> None:
    bare = run([sys.executable, "-c", f"import {name}"], tmp_path)
    assert bare.returncode == 1
    assert f"No module named '{name}'" in bare.stderr


def test_finds_wipers_without_their_libraries(installed: Path, tmp_path: Path) -> None:
    # btrfsutil is not installed here: describing a wiper must not import it.
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
