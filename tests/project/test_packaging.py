"""The packages of distributions: Arch's PKGBUILD is run on the real sources, without makepkg, which
Debian lacks. The Debian package is built and used in vm-tests/test_package.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

import ephemeroot
from checkout import CHECKOUT

PACKAGING = CHECKOUT / "packaging"
ARCH = PACKAGING / "arch"

MAKEPKG = """\
set -e
startdir=$1 srcdir=$2 pkgdir=$3
source "$startdir/PKGBUILD"
mkdir "$pkgdir"
build
package
"""


def bash(script: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_"))}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    return subprocess.run(
        ["bash", "-c", script, "bash", *words], env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def arch(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree that build() and package() of PKGBUILD make."""
    folder = tmp_path_factory.mktemp("arch")
    with tarfile.open(next(release.glob("*.tar.gz"))) as archive:
        archive.extractall(folder / "src")
    made = bash(MAKEPKG, ARCH, folder / "src", folder / "pkg")
    assert made.returncode == 0, made.stdout + made.stderr
    return folder / "pkg"


def files(tree: Path) -> set[str]:
    """All files below *tree*, without Python's version; folders only if they are empty."""
    found = (p for p in tree.rglob("*") if p.is_symlink() or p.is_file() or not any(p.iterdir()))
    return {re.sub(r"python3\.\d+", "python3", str(p.relative_to(tree))) for p in found}


def test_all_versions_are_equal() -> None:
    changelog = (PACKAGING / "debian/changelog").read_text()
    assert re.findall(r"^ephemeroot \((.+?)\)", changelog)[0] == ephemeroot.__version__
    pkgbuild = (ARCH / "PKGBUILD").read_text()
    assert re.findall(r"^pkgver=(.+)$", pkgbuild, re.MULTILINE) == [ephemeroot.__version__]
    spec = (PACKAGING / "rpm/ephemeroot.spec").read_text()
    assert re.findall(r"^Version: +(.+)$", spec, re.MULTILINE) == [ephemeroot.__version__]
    assert re.findall(r"^\* .+ - (.+)-\d+$", spec, re.MULTILINE)[0] == ephemeroot.__version__


def test_arch_contents_of_the_package(arch: Path) -> None:
    (module,) = (CHECKOUT / "dracut").iterdir()
    dracut, initcpio = f"usr/lib/dracut/modules.d/{module.name}", "usr/lib/initcpio"
    installed = files(arch)
    assert {
        "etc/ephemeroot/conf.d",
        "usr/bin/ephemeroot",
        f"{dracut}/ephemeroot",
        f"{dracut}/module-setup.sh",
        "usr/lib/ephemeroot/conf.d",
        "usr/lib/ephemeroot/may-be-removed",
        f"{initcpio}/ephemeroot/ephemeroot",
        f"{initcpio}/hooks/ephemeroot",
        f"{initcpio}/install/ephemeroot",
        "usr/lib/python3/site-packages/ephemeroot/hooks/plan.py",
        "usr/lib/systemd/system/ephemeroot-boot-complete.service",
        "usr/lib/systemd/system/multi-user.target.wants/ephemeroot-boot-complete.service",
        "usr/lib/systemd/user/ephemeroot-home.service",
        "usr/share/doc/ephemeroot/README.md",
        "usr/share/libalpm/hooks/ephemeroot-remove.hook",
        "usr/share/licenses/ephemeroot/LICENSE",
        *(f"usr/share/doc/ephemeroot/docs/{p.name}" for p in (CHECKOUT / "docs").glob("*.*")),
        *(f"usr/share/man/man{p.suffix[1:]}/{p.name}" for p in (CHECKOUT / "man").iterdir()),
        "usr/share/bash-completion/completions/ephemeroot",
        "usr/share/fish/vendor_completions.d/ephemeroot.fish",
        "usr/share/zsh/site-functions/_ephemeroot",
    } <= installed
    assert {name for name in installed if not name.startswith("usr/")} == {"etc/ephemeroot/conf.d"}
    assert (arch / "usr/bin/ephemeroot").read_text().startswith("#!")
    for link in (arch / dracut / "ephemeroot", arch / initcpio / "ephemeroot/ephemeroot"):
        assert os.readlink(link) == "/usr/bin/ephemeroot"


def test_arch_units_call_the_installed_program(arch: Path) -> None:
    for unit in (arch / "usr/lib/systemd").rglob("*.service"):
        if not unit.is_symlink():
            assert "=/usr/bin/ephemeroot " in unit.read_text(), unit


def test_arch_a_removal_is_refused_before_it_begins() -> None:
    # alpm-hooks(5): only a hook that runs before the transaction can abort it.
    hook = (ARCH / "ephemeroot-remove.hook").read_text().splitlines()
    assert "When = PreTransaction" in hook
    assert "AbortOnFail" in hook
    assert "Exec = /usr/lib/ephemeroot/may-be-removed" in hook


def test_arch_prints_that_nothing_has_changed() -> None:
    said = bash('source "$1"; post_install 1; post_upgrade 2 1', ARCH / "ephemeroot.install")
    assert said.returncode == 0, said.stderr
    assert "Nothing has changed yet" in said.stdout
    assert "HOOKS" in said.stdout


# The versions in Ubuntu 24.04 (noble) of the packages that ours name, from published package lists
# of such machines; those of pyroute2 and pyudev from the list of its archive.
UBUNTU = {
    "debhelper-compat": "13",  # of debhelper 13.14.1ubuntu5
    "python3": "3.12.3-0ubuntu2",
    "python3-btrfsutil": "6.6.3-1.1build2",
    "python3-pyroute2": "0.7.11",
    "python3-pyudev": "0.24.0",
    "python3-setuptools": "68.1.2-2ubuntu1",
}
# In Debian's contrib: a package in main may only suggest it (Policy 2.2.1).
CONTRIB = {"python3-pyzfs", "zfs-dracut"}


def relations(field: str) -> list[tuple[str, str, str]]:
    """Package, operator and version of each relation in that field of debian/control."""
    text = (PACKAGING / "debian/control").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    found = re.search(rf"^{field}:((?:.*\n(?: .*\n)*))", "\n".join(lines) + "\n", re.MULTILINE)
    assert found is not None, field
    words = [word.strip() for word in found[1].split(",")]
    parsed = [re.fullmatch(r"([a-z0-9+.-]+)(?: \((\S+) (\S+)\))?", w) for w in words
              if w and not w.startswith("$")]  # fmt: skip
    assert all(parsed), words
    return [(m[1], m[2] or "", m[3] or "") for m in parsed if m]


def satisfies(version: str, operator: str, wanted: str) -> bool:
    """Compared by dpkg."""
    operator = {"=": "eq", ">=": "ge"}[operator]
    return subprocess.run(["dpkg", "--compare-versions", version, operator, wanted]).returncode == 0


@pytest.mark.requires_program("dpkg")
@pytest.mark.parametrize("field", ["Build-Depends", "Recommends", "Suggests"])
def test_debian_ubuntu_24_04_has_every_required_version(field: str) -> None:
    for package, operator, wanted in relations(field):
        if operator:
            assert satisfies(UBUNTU[package], operator, wanted), package


@pytest.mark.requires_program("dpkg")
def test_debian_ubuntu_24_04_has_the_required_modules_and_build_backend() -> None:
    """dh_python3 turns the dependencies of pyproject.toml into those of the package."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    wanted = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["btrfs"],
        f"python{project['project']['requires-python']}",
    ]
    for one in wanted:
        name, operator, version = re.split("(>=)", one)
        package = "python3" if name == "python" else f"python3-{name}"
        assert satisfies(UBUNTU[package], operator, version), one
    (minimum,) = re.findall(r"^X-Python3-Version: >= (.+)$",
                            (PACKAGING / "debian/control").read_text(), re.MULTILINE)  # fmt: skip
    assert f">={minimum}" == project["project"]["requires-python"]


def test_debian_recommends_only_packages_of_main() -> None:
    recommended = {package for package, _, _ in relations("Recommends")}
    assert recommended == {"dracut", "python3-btrfsutil"}
    assert {package for package, _, _ in relations("Suggests")} >= CONTRIB
