"""The RPM packages: built by the spec from the release's tarball, and installed with rpm and dnf.
No machine boots here.
"""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

import ephemeroot
import rpm_packages
from checkout import CHECKOUT
from ephemeroot.image import installation, package_hooks
from proof import is_whole, sample
from rpm_packages import Machine

pytestmark = [
    pytest.mark.requires_root,
    *(
        pytest.mark.requires_program(name)
        for name in ("rpmbuild", "rpmlint", "dnf", "createrepo_c")
    ),
]

VERSION = ephemeroot.__version__
FLAVORS = ("fedora", "el9", "suse") if is_whole() else ("fedora",)

# The settings of the distributions' own rpmlint.
RPMLINT = """\
ValidLicenses = ["MIT"]
CompressExtension = "gz"
Filters = [
  "no-packager-tag", "no-signature", "no-group-tag", "no-buildroot-tag",
  "incoherent-version-in-changelog",
]
"""


@pytest.fixture(scope="module")
def sdist(release: Path) -> Path:
    return release / f"ephemeroot-{VERSION}.tar.gz"


@pytest.fixture(scope="module", params=FLAVORS)
def flavor(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def built(sdist: Path, flavor: str, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The packages by name."""
    return rpm_packages.build(sdist, tmp_path_factory.mktemp("rpm"), flavor)


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Path]:
    return rpm_packages.stand_ins(tmp_path_factory.mktemp("stand-ins"))


@pytest.fixture(scope="module")
def previous(flavor: str, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """An older version of each package: the scriptlets of the spec, and almost no files."""
    return rpm_packages.build_previous(tmp_path_factory.mktemp("previous"), flavor)


@pytest.fixture
def machine(stand_ins: Sequence[Path], tmp_path: Path) -> Machine:
    """A system that has the required packages, and a repository that contains only these."""
    rpm_packages.publish(tmp_path / "repository", stand_ins)
    machine = Machine(tmp_path / "tree", tmp_path / "repository")
    done = machine.rpm("--install", *stand_ins)
    assert done.returncode == 0, done.stderr
    return machine


def query(package: Path, *words: str) -> list[str]:
    return rpm_packages.run("rpm", "--query", "--package", *words, package).splitlines()


def tracked() -> set[str]:
    """The files that git tracks; without git, all files of the unpacked archive."""
    command = ["git", "-c", f"safe.directory={CHECKOUT}", "-C", str(CHECKOUT), "ls-files", "-z"]
    listed = rpm_packages.run(*command).split("\0")
    return {name for name in listed if (CHECKOUT / name).is_file()}


def test_the_tarball_has_every_tracked_file_and_otherwise_only_metadata(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {member.name for member in archive.getmembers() if member.isfile()}
    packed = {name.partition("/")[2] for name in names}
    assert tracked() <= packed
    added = {name for name in packed - tracked() if not name.startswith("ephemeroot.egg-info/")}
    assert added == {"PKG-INFO", "setup.cfg"}


def test_the_wheel_has_completions_and_manual(release: Path) -> None:
    (wheel,) = release.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {Path(name).name for name in archive.namelist() if "/data/share/" in name}
    expected = [*(CHECKOUT / "man").iterdir(), *(CHECKOUT / "completions").iterdir()]
    assert names == {path.name for path in expected}


def test_the_release_passes_the_check_of_twine(release: Path) -> None:
    said = (release.parent / "checked").read_text()
    assert said.count("PASSED") == len(list(release.iterdir())) == 2


def test_rpmlint_reports_nothing(built: Mapping[str, Path], tmp_path: Path) -> None:
    (tmp_path / "rpmlint.toml").write_text(RPMLINT)
    lint: list[str | Path] = ["rpmlint", "--config", tmp_path / "rpmlint.toml"]
    filters = rpm_packages.SPEC.with_suffix(".rpmlintrc")
    said = subprocess.run(
        [*lint, "--rpmlintrc", filters, *built.values(), rpm_packages.SPEC],
        capture_output=True, text=True,
    )  # fmt: skip
    assert " 0 errors, 0 warnings" in said.stdout, said.stdout + said.stderr


# Values of the spec on each distribution, without a build.
INTERPRETERS = {"fedora": "python3", "el9": "python3.12", "suse": "python3"}


@pytest.mark.parametrize("name", ["fedora", "el9", "suse"])
def test_each_distribution_builds_with_a_recent_enough_python(tmp_path: Path, name: str) -> None:
    words = rpm_packages.settings(tmp_path / "settings", name)
    asked: list[str | Path] = ["rpmspec", *words, "--query", "--buildrequires", rpm_packages.SPEC]
    required = {line.split()[0] for line in rpm_packages.run(*asked).splitlines()}
    python = INTERPRETERS[name]
    assert {f"{python}-{part}" for part in ("devel", "pip", "setuptools", "wheel")} <= required
    parsed = rpm_packages.run("rpmspec", *words, "--parse", rpm_packages.SPEC)
    called = {Path(word).name for word in parsed.split() if "/bin/python" in word}
    assert {word.removeprefix("PYTHON=") for word in called} == {python}


def test_contents_of_the_packages(built: Mapping[str, Path], flavor: str) -> None:
    files = {name: set(query(path, "--list")) for name, path in built.items()}
    main, dracut = files["ephemeroot"], files["ephemeroot-dracut"]
    units = {item.name for item in installation.system_units(installation.PROGRAM)}
    manager = "zypper" if flavor == "suse" else "dnf"
    hooks = {item.name for item in package_hooks.items(manager, installation.PROGRAM)}
    assert units | hooks <= main
    assert {name for name in main if name.startswith("/etc/")} == {
        *("/etc/ephemeroot", "/etc/ephemeroot/conf.d"),
        *(name for name in hooks if name.startswith("/etc/")),
        *(str(p) for name in hooks for p in list(Path(name).parents)[:-2] if name[:5] == "/etc/"),
    }
    assert {
        "/usr/bin/ephemeroot",
        "/usr/lib/ephemeroot/may-be-removed",
        "/usr/lib/systemd/system-preset/80-ephemeroot.preset",
        "/usr/lib/systemd/user-preset/80-ephemeroot.preset",
        "/usr/share/bash-completion/completions/ephemeroot",
        "/usr/share/fish/vendor_completions.d/ephemeroot.fish",
        "/usr/share/zsh/site-functions/_ephemeroot",
        *(f"/usr/share/man/man{p.suffix[1:]}/{p.name}.gz" for p in (CHECKOUT / "man").iterdir()),
    } <= main
    assert {
        "/usr/lib/dracut/dracut.conf.d/50-ephemeroot.conf",
        "/usr/lib/dracut/modules.d/50ephemeroot/module-setup.sh",
        "/usr/lib/dracut/modules.d/50ephemeroot/ephemeroot",
    } <= dracut
    assert not [name for name in main | dracut if "initcpio/" in name and "-packages/" not in name]


def test_requirements_of_the_packages(built: Mapping[str, Path], flavor: str) -> None:
    required = query(built["ephemeroot"], "--requires")
    libraries = {
        re.sub(r"python3\.\d+", "python3", line.split()[0])
        for line in required
        if "pyroute2" in line or "pyudev" in line
    }
    names = {
        "fedora": {"python3dist(pyroute2)", "python3dist(pyudev)"},
        "el9": set[str](),  # it has no package for its second Python
        "suse": {"python3-pyroute2", "python3-pyudev"},
    }[flavor]
    assert names <= libraries
    # openSUSE's rpm may generate the others, too.
    assert libraries == names or flavor == "suse"
    assert f"/usr/bin/{INTERPRETERS[flavor]}" in required
    (whole,) = query(built["ephemeroot"], "--queryformat", "%{NAME} = %{VERSION}-%{RELEASE}")
    assert {"dracut", whole} <= set(query(built["ephemeroot-dracut"], "--requires"))
    assert "zfs-dracut" in query(built["ephemeroot-zfs"], "--requires")


def test_presets_change_nothing(built: Mapping[str, Path], machine: Machine) -> None:
    """Links in /usr enable the units that a boot needs. The default of systemd is to enable every
    unit.
    """
    assert machine.rpm("--install", built["ephemeroot"]).returncode == 0
    for scope in ("--system", "--global"):
        rpm_packages.run("systemctl", "--root", machine.tree, scope, "preset-all")
    assert list(machine.tree.glob("etc/systemd/*/*")) == []


def test_an_installation_builds_no_image_and_starts_no_unit(
    built: Mapping[str, Path], machine: Machine
) -> None:
    """It only applies presets, to the units that no link in /usr enables."""
    done = machine.rpm("--install", built["ephemeroot"], built["ephemeroot-dracut"])
    assert done.returncode == 0, done.stderr
    folder = machine.tree / "usr/lib/systemd"
    wanted = {path.name for path in folder.glob("system/*.wants/*")}
    installable = {
        path.name
        for path in folder.glob("*/ephemeroot-*")
        if "[Install]" in path.read_text() and path.name not in wanted
    }
    calls = [line.split() for line in machine.calls()]
    assert {word for words in calls for word in words[2:]} == installable
    verbs = {words[1].removeprefix("mark-") for words in calls if words[0] == "units"}
    assert verbs == {"install-system-units", "install-user-units"}
    assert "dracut" not in {words[0] for words in calls}


NAMES = ("ephemeroot", "ephemeroot-dracut")


@pytest.mark.parametrize(
    ("manager", "applied"),
    sample([("dnf", True), ("rpm", False), ("rpm", True), ("dnf", False)], 2, seed=2),
)
def test_an_update_rebuilds_the_images_of_a_machine_with_a_plan(
    built: Mapping[str, Path],
    previous: Mapping[str, Path],
    machine: Machine,
    manager: str,
    applied: bool,
) -> None:
    assert machine.act(manager, "install", previous, NAMES).returncode == 0
    plan = machine.tree / "etc/ephemeroot/plan.json"
    plan.parent.mkdir(parents=True)
    if applied:
        plan.touch()
    machine.calls()
    assert machine.act(manager, "update", built, NAMES).returncode == 0
    assert "/usr/lib/dracut/modules.d/50ephemeroot/boot" in machine.owned()
    built_images = [line for line in machine.calls() if line.startswith("dracut")]
    assert built_images == ["dracut --regenerate-all --force"] * applied


@pytest.mark.parametrize("manager", ["rpm", "dnf"])
def test_a_removal_is_refused_while_a_boot_needs_the_packages(
    built: Mapping[str, Path], machine: Machine, manager: str
) -> None:
    assert machine.act(manager, "install", built, NAMES).returncode == 0
    owned = machine.owned()
    plan = machine.tree / "etc/ephemeroot/plan.json"
    plan.touch()
    for removed in (NAMES, NAMES[1:]):
        refused = machine.act(manager, "remove", built, removed)
        assert refused.returncode != 0
        assert "ROOT IS MADE FRESH AT EVERY BOOT" in refused.stdout + refused.stderr
        assert machine.owned() == owned
        assert [name for name in owned if not os.path.lexists(machine.tree / name[1:])] == []
    plan.unlink()
    leaving = machine.tree / ".ephemeroot/leaving.json"
    leaving.parent.mkdir()
    leaving.touch()
    assert machine.act(manager, "remove", built, NAMES).returncode != 0
    assert machine.owned() == owned
    leaving.unlink()
    machine.calls()

    assert machine.act(manager, "remove", built, NAMES).returncode == 0
    assert machine.owned() == []
    assert [line for line in machine.calls() if line.startswith("dracut")] == []
    assert list(machine.tree.rglob("*ephemeroot*")) == [leaving.parent]
