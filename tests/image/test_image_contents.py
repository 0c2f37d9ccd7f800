"""The packed files are complete, tried in a chroot, and either whole or replaced by an
inert image.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import btrfsutil
import pytest

import ephemeroot
import proof
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.image import assembly, contents, entry, verification
from ephemeroot.image.broken import Broken
from ephemeroot.image.contents import Contents
from ephemeroot.image.generators.dracut.target import DracutTarget
from ephemeroot.image.generators.mkinitcpio.target import MkinitcpioTarget
from image_plans import bundled, plan, put_together, wipe

pytestmark = pytest.mark.requires_root

ENTRY = "/usr/lib/ephemeroot/boot.pyc"

TMPFS = Wipe(target="/", wiper="tmpfs", attribute="ephemeroot.wipers.tmpfs:Tmpfs", settings={})


@pytest.fixture(scope="module")
def armed(tmp_path_factory: pytest.TempPathFactory) -> Contents:
    return put_together(tmp_path_factory.mktemp("image") / "tree")


def names(made: Contents) -> set[str]:
    return {made.tree.name(path) for path in made.tree.files()}


def command(made: Contents) -> list[str]:
    settings = (made.tree.top / contents.SETTINGS.lstrip("/")).read_text().splitlines()
    python = next(line for line in settings if line.startswith("python="))
    return [python.removeprefix("python="), "-I", "-S", "-B", ENTRY, "verify"]


def test_packs_the_needed_files(armed: Contents) -> None:
    library = f"/usr/lib/python{sys.version_info[0]}.{sys.version_info[1]}"
    packed = names(armed)
    assert {
        "/usr/lib/ephemeroot/boot",
        "/usr/lib/ephemeroot/boot.pyc",
        "/usr/lib/ephemeroot/plan.json",
        "/usr/lib/ephemeroot/bundle",
        f"{library}/os.pyc",
        f"{library}/encodings/utf_8.pyc",
        "/usr/lib/systemd/system/ephemeroot-wipe.service",
        "/usr/lib/systemd/system/sysroot.mount.requires/ephemeroot-wipe.service",
        "/usr/lib/systemd/system/initrd-root-fs.target.requires/ephemeroot-persist.service",
    } <= packed
    assert (armed.tree.top / library.lstrip("/") / "lib-dynload").is_dir()
    modules = bundled(armed).index.keys()
    assert {"ephemeroot.hooks.persist", "ephemeroot.wipers.btrfs.wiper", "json.decoder"} <= modules
    assert armed.armed
    assert "btrfs" in armed.modules


def test_leaves_out_files_that_no_boot_needs(armed: Contents) -> None:
    unwanted = ("ssl", "crypto", "typing", "dataclasses", "pathlib", "argparse", "subprocess")
    for name in [*names(armed), *bundled(armed).index]:
        assert not any(word in name.rpartition("/")[2] for word in unwanted), name
        # Only boot code of the program: no installed half of a backend.
        if name.startswith("ephemeroot."):
            inner = name.partition(".")[2]
            assert "." not in inner or inner.startswith(("hooks.", "wipers.", "linux.")), name
        # mkinitcpio moves such files into the uncompressed archive.
        assert not name.endswith((".gz", ".xz", ".zst", ".py"))
    assert not (armed.tree.top / "proc").exists()
    assert not (armed.tree.top / "lib").exists()


def test_byte_code_does_not_check_for_its_source(armed: Contents) -> None:
    compiled = list(armed.tree.top.rglob("*.pyc"))
    assert len(compiled) > 4
    for path in compiled:
        # PEP 552: bit 0 hash-based, bit 1 (check the source) not set
        assert path.read_bytes()[4:8] == b"\x01\0\0\0"


def test_contains_no_path_of_this_machine(armed: Contents) -> None:
    here = str(Path(ephemeroot.__path__[0]).resolve().parent).encode()
    bundle = armed.tree.top / "usr/lib/ephemeroot/bundle"
    for path in [bundle, *armed.tree.top.rglob("*.pyc")]:
        assert here not in path.read_bytes(), path


def test_runs_without_other_files(armed: Contents) -> None:
    verification.verify(armed.tree, command(armed))


def test_the_same_plan_gives_the_same_tree(armed: Contents, tmp_path: Path) -> None:
    again = put_together(tmp_path / "tree")
    assert names(again) == names(armed)
    for path in again.tree.files():
        other = armed.tree.top / path.relative_to(again.tree.top)
        assert path.lstat().st_mtime == other.lstat().st_mtime
        if not path.is_symlink():
            assert path.read_bytes() == other.read_bytes(), path


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("usr/lib/ephemeroot/bundle", "bundle"),
        ("usr/lib/ephemeroot/plan.json", "plan"),
        ("usr/lib/python{}/encodings/utf_8.pyc", "utf-8"),
    ],
)
def test_notices_a_missing_file(armed: Contents, gone: str, said: str) -> None:
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    missing = armed.tree.top / gone.format(version)
    with moved_away(armed, missing), pytest.raises(Broken, match=said):
        verification.verify(armed.tree, command(armed))


def test_notices_a_missing_library(armed: Contents) -> None:
    libc = next(armed.tree.top.rglob("libc.so.6"))
    with moved_away(armed, libc), pytest.raises(Broken, match=r"libc\.so|cannot|exit"):
        verification.verify(armed.tree, command(armed))


@contextmanager
def moved_away(made: Contents, path: Path) -> Iterator[None]:
    """*path* is moved out of the tree for the duration of a `with`."""
    place = made.tree.top.parent / "away"
    path.rename(place)
    try:
        yield
    finally:
        place.rename(path)


def test_adds_nothing_without_a_plan(tmp_path: Path) -> None:
    made = assembly.put_together(tmp_path / "tree", None, DracutTarget())
    assert not made.armed
    assert made.reason is None
    assert names(made) == set()


def broken(tmp_path: Path, raw: bytes, init: str = "systemd") -> str:
    """The reason of an image that must be inert: it contains no stage, and it says why."""
    made = assembly.put_together(tmp_path / "tree", raw, DracutTarget(init))
    assert not made.armed
    assert made.reason is not None
    assert names(made) == {
        "/usr/lib/ephemeroot/boot",
        "/usr/lib/ephemeroot/inert",
        "/usr/lib/systemd/system/ephemeroot-inert.service",
        "/usr/lib/systemd/system/initrd.target.wants/ephemeroot-inert.service",
    }
    assert made.reason in (made.tree.top / "usr/lib/ephemeroot/inert").read_text()
    assert made.modules == []
    return made.reason


def test_a_damaged_plan_makes_an_inert_image(tmp_path: Path) -> None:
    raw = plan().dump().replace(b"/var/log", b"/var/lob")
    assert "checksum" in broken(tmp_path, raw)


def test_an_initramfs_without_emergency_shell_is_inert(tmp_path: Path) -> None:
    assert "emergency shell" in broken(tmp_path, plan().dump(), "none")


def test_mkinitcpios_init_knows_whether_a_wiper_mounts_the_root(tmp_path: Path) -> None:
    """This applies to its own init only: with systemd, a condition of a unit has the same effect
    (test_image_units).
    """
    raw = plan(TMPFS).dump()
    mark, own_init = contents.MOUNTS_ROOT, MkinitcpioTarget(("base", "udev", "ephemeroot"))
    made = assembly.put_together(tmp_path / "tree", raw, own_init)
    assert (made.armed, mark in names(made)) == (True, True), made.reason
    made = assembly.put_together(tmp_path / "other", plan().dump(), own_init)
    assert (made.armed, mark in names(made)) == (True, False), made.reason


def test_a_missing_wiper_makes_an_inert_image(tmp_path: Path) -> None:
    raw = plan(wipe("somewhere.else:Wiper")).dump()
    assert "somewhere" in broken(tmp_path, raw)


WIPER = """
from ephemeroot.wipers.contract import Needs, Wiper

class Odd(Wiper):
    NAME = "odd"
    @classmethod
    def needs(cls, settings):
        return Needs({needs})
"""


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file for a third party's wiper: a module on the search path, with a name that was never
    imported before.
    """
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder / f"odd_{secrets.token_hex(4)}.py"


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        ('python=("not_installed_anywhere",)', "not_installed_anywhere"),
        ('python=("unloadable",)', "unloadable"),
        ('programs=("no-such-program",)', "no-such-program"),
        ('exercise=("json:fails",)', "fails"),
    ],
)
def test_incomplete_files_make_an_inert_image(
    tmp_path: Path, odd: Path, needs: str, said: str
) -> None:
    odd.write_text(WIPER.format(needs=needs))
    (odd.parent / "unloadable.abi3.so").write_bytes(b"\x7fELF and nothing of use")
    assert said in broken(tmp_path, plan(wipe(f"{odd.stem}:Odd")).dump())


def test_packs_a_third_partys_wiper(tmp_path: Path, odd: Path) -> None:
    needs = 'python=("oddlibrary",), programs=("true",), kernel_modules=("oddfs",)'
    odd.write_text(WIPER.format(needs=needs))
    library = odd.parent / "oddlibrary"
    library.mkdir()
    (library / "__init__.py").write_text("from oddlibrary import part\n")
    (library / "part.py").write_text("import bisect\n")
    made = put_together(tmp_path / "tree", wipe(f"{odd.stem}:Odd"))
    packed = names(made)
    assert f"/usr/lib/ephemeroot/{odd.stem}.pyc" in packed
    assert "/usr/lib/ephemeroot/oddlibrary/__init__.pyc" in packed
    assert "/usr/lib/ephemeroot/oddlibrary/part.pyc" in packed
    assert "bisect" in bundled(made).index
    assert any(name.endswith("/bin/true") for name in packed)
    assert "oddfs" in made.modules


HERE = str(Path(ephemeroot.__path__[0]).parent)
BUILD = """
import sys; from pathlib import Path; from ephemeroot.image import assembly
from ephemeroot.image.generators.dracut.target import DracutTarget
target = DracutTarget(sys.argv[3])
made = assembly.put_together(Path(sys.argv[1]), Path(sys.argv[2]).read_bytes(), target)
print(sys.prefix != sys.base_prefix, made.armed, made.reason)
"""


@dataclass
class Python:
    """An interpreter that finds this program by the variable ``path``, or by itself."""

    program: Path
    path: str
    virtual: bool


@pytest.fixture(scope="module", params=["distribution", "virtual environment"])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Python:
    installed = [HERE, str(Path(btrfsutil.__file__).parent)]
    if request.param == "distribution":
        usual = Path("/usr/bin/python3")
        if not usual.exists():
            pytest.skip("needs a distribution's Python: install /usr/bin/python3")
        return Python(usual, ":".join(installed), virtual=False)
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, symlinks=True)
    site = next(folder.glob("lib/python3*/site-packages"))
    (site / "installed.pth").write_text("".join(f"{entry}\n" for entry in installed))
    return Python(folder / "bin/python", "", virtual=True)


@pytest.mark.requires_program("zstd")
@pytest.mark.parametrize(
    ("operation", "init"),
    proof.sample(
        [
            pytest.param(operation, init, id=f"{name}-{init}")
            for name, operation in (("btrfs", wipe()), ("tmpfs", TMPFS))
            for init in ("systemd", "dracut")
        ],
        1,
    ),
)
def test_adds_at_most_3_5_mb_to_an_image(
    tmp_path: Path, python: Python, operation: Wipe, init: str
) -> None:
    """Compressed with zstd, everything that is needed fits.

    Files that every initramfs has anyway are not included. Without systemd there is more: pyudev.
    """
    (tmp_path / "plan").write_bytes(plan(operation).dump())
    tree, packed = tmp_path / "tree", tmp_path / "tree.tar"
    done = subprocess.run(
        [python.program, "-s", "-P", "-c", BUILD, tree, tmp_path / "plan", init],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": python.path},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [str(python.virtual), "True", "None"], done.stdout + done.stderr
    files = {path.name for path in tree.rglob("*")}
    assert "plan.json" in files
    assert [name for name in files if "crypto" in name or "ssl" in name] == []
    modules = entry.Bundle((tree / "usr/lib/ephemeroot/bundle").read_bytes()).index
    assert ("ephemeroot.wipers.btrfs.wiper" in modules) == (operation is not TMPFS)
    left_out = [f"--exclude={name}" for name in ("libc.so.6", "libm.so.6", "ld-linux*")]
    subprocess.run(["tar", "-cf", packed, *left_out, "-C", tree, "."], check=True)
    subprocess.run(["zstd", "-q", "-15", packed], check=True)
    size = packed.with_suffix(".tar.zst").stat().st_size
    print(f"{size} bytes")
    assert size < 3_500_000


def test_the_image_contains_the_policies(tmp_path: Path) -> None:
    raw = plan(on_failure={"wipe": "poweroff", "store": "reboot"}).dump()
    made = assembly.put_together(tmp_path / "tree", raw, DracutTarget())
    settings = (made.tree.top / contents.SETTINGS.lstrip("/")).read_text()
    assert "wipe=poweroff\n" in settings
    assert "store=reboot\n" in settings
