"""Entry points are the same as importlib.metadata finds, whatever is installed."""

from __future__ import annotations

import random
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from ephemeroot.machine import entry_points

GROUP = "ephemeroot.wipers"

NAMES = ("one", "One", "two_words", "Two.Words", "two--words", "zope.three", "four")
VERSIONS = ("-1.0", "-2.0", "-1.0-py3.11", "")
ENDS = (".dist-info", ".egg-info", ".dist-info", ".DIST-INFO", ".dist")
LINES = (
    "[ephemeroot.wipers]", "[ephemeroot.wipers]", "[ephemeroot.generators]", "[console_scripts]",
    "a = one:A", "a=one:A", "  b =  two.three:B.C  ", "c = four:D", "# comment", "", "a = other:A",
)  # fmt: skip
ODD = ("d = module", "e = module:f [extra]", "f = module : g", "g = h = i:j", "h = mödül:k")


def install(chance: random.Random, site: Path) -> None:
    """Several packages; some are declared twice, and some are not folders."""
    for _ in range(chance.randrange(6)):
        folder = site / (chance.choice(NAMES) + chance.choice(VERSIONS) + chance.choice(ENDS))
        if folder.exists():
            continue
        if chance.random() < 0.1:
            folder.write_text("Name: file\n")
            continue
        folder.mkdir(parents=True)
        name = folder.name.partition("-")[0]
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        if chance.random() < 0.8:
            lines = ["[ephemeroot.wipers]", *chance.choices(LINES, k=chance.randrange(8))]
            if chance.random() < 0.1:
                lines.append(chance.choice(ODD))
            (folder / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")


@pytest.mark.parametrize("seed", range(60))
def test_finds_what_importlib_metadata_finds(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    sites = [
        tmp_path / name for name in ("first", "second", "Odd.egg" if seed % 9 == 0 else "third")
    ]
    for site in sites:
        site.mkdir()
        install(chance, site)
    monkeypatch.setattr(sys, "path", [*map(str, sites), str(tmp_path / "absent")])
    monkeypatch.chdir(sites[0])
    if chance.random() < 0.3:
        sys.path.insert(0, "")
    expected = {(one.name, one.value) for one in metadata.entry_points(group=GROUP)}
    assert {tuple(one) for one in entry_points.declared(GROUP)} == expected


def test_finds_packages_in_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "packages.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("x-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: x\nVersion: 1\n")
        packed.writestr("x-1.dist-info/entry_points.txt", f"[{GROUP}]\nx = y:Z\n")
    monkeypatch.setattr(sys, "path", [str(archive)])
    assert entry_points.declared(GROUP) == [("x", "y:Z")]


def test_finds_entry_points_of_another_projects_finder(monkeypatch: pytest.MonkeyPatch) -> None:
    class Package(metadata.Distribution):
        def read_text(self, filename: str) -> str | None:
            return {
                "METADATA": "Metadata-Version: 2.1\nName: x\nVersion: 1\n",
                "entry_points.txt": f"[{GROUP}]\nx = y:Z\n",
            }.get(filename)

        def locate_file(self, path: object) -> Path:
            return Path(str(path))

    class Finder:
        @staticmethod
        def find_spec(*_: object) -> None:
            return None

        @staticmethod
        def find_distributions(*_: object) -> list[Package]:
            return [Package()]

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    assert ("x", "y:Z") in entry_points.declared(GROUP)
