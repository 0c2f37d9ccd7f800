"""A missing module of another project is named with the command that installs it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ephemeroot import cli
from ephemeroot.config import plugins
from ephemeroot.machine import python_modules
from ephemeroot.machine.python_modules import _DISTRIBUTIONS, _PYPI
from machine_tree import MachineTree


@pytest.mark.parametrize("module", _PYPI)
@pytest.mark.parametrize(("program", "command", "packages"), _DISTRIBUTIONS)
def test_names_the_package_of_the_distribution(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    program: str,
    command: str,
    packages: dict[str, str],
) -> None:
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    (tmp_path / program).parent.mkdir(parents=True)
    (tmp_path / program).touch()
    hint = python_modules.how_to_install(f"{module}.inner", str(tmp_path))
    if module in packages:
        assert hint == f"run '{command} {packages[module]}'"
    else:
        assert hint.endswith(f"-m pip install {_PYPI[module]}'")


@pytest.mark.parametrize("shared", ["true", "false"])
def test_an_isolated_environment_needs_its_own_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: str
) -> None:
    MachineTree(tmp_path).write("usr/bin/apt-get", "")
    (tmp_path / "pyvenv.cfg").write_text(f"include-system-site-packages = {shared}\n")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    hint = python_modules.how_to_install("btrfsutil", str(tmp_path))
    assert ("apt install" in hint) == (shared == "true")


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of modules that the interpreter must not find; a test adds to it."""
    names: set[str] = set()

    class Finder:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> None:
            if name in names:
                raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    for name in _PYPI:
        monkeypatch.delitem(sys.modules, name, raising=False)
    return names


@pytest.mark.parametrize("name", plugins.names())
def test_check_and_init_name_the_module_of_the_wiper(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], without: set[str], name: str
) -> None:
    tree = MachineTree(tmp_path)
    tree.write("usr/bin/apt-get", "")
    kinds = {"btrfs": "btrfs subvol=root", "zfs": "zfs defaults", "overlay": "ext4 defaults"}
    device = "tank/ROOT/root" if name == "zfs" else "LABEL=root"
    tree.write("etc/fstab", f"{device} / {kinds.get(name, 'ext4 defaults')} 0 0\n")
    tree.write("etc/ephemeroot/ephemeroot.toml", f'[root]\nwiper = "{name}"\n')
    wanted = python_modules.of_wiper(plugins.find(name).wiper)
    without |= set(wanted)
    cli.main(["check", "--root", str(tmp_path)])
    said = capsys.readouterr().out
    for module in wanted:
        assert f"the Python module {module} is not installed: the wiper {name} needs it" in said
        assert python_modules.command(module, str(tmp_path)) in said
    assert ("the Python module" in said) == bool(wanted)
    if name not in kinds:
        return
    assert cli.main(["init", "--root", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert ("Install the Python module that the wiper" in said) == bool(wanted)
    for module in wanted:
        assert python_modules.command(module, str(tmp_path)) in said


@pytest.mark.parametrize("module", _PYPI)
def test_the_program_reports_a_missing_module_with_a_hint(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(words: object) -> int:
        raise ModuleNotFoundError(f"No module named '{module}'", name=module)

    monkeypatch.setattr(cli, "_run", run)
    assert cli.main(["base", "list"]) == 1
    said = capsys.readouterr().err
    assert f"the Python module {module} is not installed" in said
    assert "hint: run '" in said


def test_a_missing_module_of_our_own_is_an_internal_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(words: object) -> int:
        raise ModuleNotFoundError("No module named 'ephemeroot.x'", name="ephemeroot.x")

    monkeypatch.setattr(cli, "_run", run)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["base", "list"])
