"""Wipers of third parties: found by entry point, and errors in them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ephemeroot.config import plugins, read
from ephemeroot.hooks import plan
from ephemeroot.hooks.operations.wipe import Wipe
from machine_tree import MAIN, SOUND, MachineTree

MODULE = """\
from ephemeroot.wipers.contract import Finding, Option, Wiper

class Snapper(Wiper):
    NAME = "snapper"
    OPTIONS = (
        Option("base", "path", "blank", "what fresh roots are made from"),
        Option("limit", "size", 0, "how much"),
        Option("modes", "strings", [], "how"),
    )

    @classmethod
    def validate(cls, settings):
        findings = []
        if settings["limit"] > 1 << 30:
            findings.append(Finding("limit", "is too much", "less"))
        if settings["modes"]:
            findings.append(Finding("", "has modes", warning=True))
        return findings

    def describe(self, target, device, subvolume):
        return f"snap {target} back to {self.settings['base']}"

class Old(Snapper):
    API = 0

class Strange(Snapper):
    OPTIONS = (Option("x", "colour", "", "?"),)

class NoWiper:
    pass
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path, as pip makes it; the test puts packages there."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "snapping.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "snapping", raising=False)
    return site


def package(site: Path, entry: str, name: str = "snapping") -> None:
    folder = site / f"{name}-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(f"[ephemeroot.wipers]\n{entry}\n")


@pytest.fixture
def tree(tmp_path: Path) -> MachineTree:
    return MachineTree(tmp_path / "machine", SOUND.replace("btrfs", "snapper", 1).replace(
        "root.btrfs", "root.snapper"))  # fmt: skip


def test_the_plan_contains_a_wiper_of_another_package(install: Path, tree: MachineTree) -> None:
    package(install, "snapper = snapping:Snapper")
    tree.write(MAIN, (tree.path / MAIN).read_text().replace(
        "[root.snapper]", '[root.snapper]\nlimit = "512M"\ndevice = "LABEL=x"'))  # fmt: skip
    wipe = next(o for o in tree.plan().wipe if isinstance(o, Wipe))
    assert wipe.attribute == "snapping:Snapper"
    assert wipe.settings == {"base": "root-base", "limit": 512 << 20, "modes": []}
    assert wipe.device == "LABEL=x"
    assert wipe.describe() == "snap / back to root-base"
    assert plan.parse(tree.plan().dump()).dump() == tree.plan().dump()


def test_reports_the_wipers_own_problems_at_its_keys(install: Path, tree: MachineTree) -> None:
    package(install, "snapper = snapping:Snapper")
    tree.write(MAIN, (tree.path / MAIN).read_text().replace(
        "[root.snapper]", '[root.snapper]\nlimit = "5G"\nmodes = ["x"]'))  # fmt: skip
    error, warning = sorted(tree.problems(), key=lambda problem: problem.warning)
    assert (error.key, error.reason, error.hint) == ("root.snapper.limit", "is too much", "less")
    assert error.line == 4
    assert (warning.key, warning.reason, warning.warning) == ("root.snapper", "has modes", True)


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ("other = snapping:Snapper", "there is no wiper 'snapper'"),
        (
            "snapper = snapping:Missing",
            "cannot load the wiper 'snapper' (snapping:Missing): AttributeError",
        ),
        (
            "snapper = no_such_module:Snapper",
            "cannot load the wiper 'snapper' (no_such_module:Snapper): ModuleNotFoundError",
        ),
        ("snapper = snapping:Old", "it was written for version 0 of the contract"),
        ("snapper = snapping:NoWiper", "snapping:NoWiper is not a class derived from Wiper"),
        ("snapper = snapping:API", "snapping:API): AttributeError"),
        ("snapper = snapping:Strange", "is of the unknown kind 'colour'"),
    ],
)
def test_refuses_unusable_wipers(
    install: Path, tree: MachineTree, entry: str, complaint: str
) -> None:
    package(install, entry)
    assert complaint in tree.complaint()
    assert tree.errors()[0].key == "root.wiper"


def test_reports_a_wiper_whose_module_fails(install: Path, tree: MachineTree) -> None:
    package(install, "snapper = snapping:Snapper")
    (install / "snapping.py").write_text("raise RuntimeError('no library')")
    assert "(snapping:Snapper): RuntimeError: no library" in tree.complaint()


def test_reports_two_packages_with_one_name(install: Path, tree: MachineTree) -> None:
    package(install, "snapper = snapping:Snapper")
    package(install, "snapper = elsewhere:Snapper", "elsewhere")
    assert "several installed packages provide a wiper 'snapper'" in tree.complaint()
    assert "elsewhere:Snapper, snapping:Snapper" in tree.complaint()


def test_checks_the_options_of_an_unused_wiper(install: Path, tree: MachineTree) -> None:
    package(install, "snapper = snapping:Snapper")
    tree.write(MAIN, SOUND + "[root.snapper]\nlimit = false\nbass = 1\n")
    assert [error.key for error in tree.errors()] == ["root.snapper.limit", "root.snapper.bass"]


def test_finds_a_built_in_wiper_without_its_library(tree: MachineTree) -> None:
    assert "btrfs" in plugins.names()
    assert plugins.find("btrfs").attribute == "ephemeroot.wipers.btrfs:Btrfs"
    tree.write(MAIN, SOUND)
    assert not read(tree.machine).problems
    table = plugins.find("btrfs").root_table()
    assert {"device", "subvolume", "base", "old-roots", "keep-days", "keep-last", "min-free"} <= {
        *table.names()
    }
