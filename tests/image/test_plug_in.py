"""The example of docs/plug-ins.md, word for word: packed, installed, checked, built into an image,
and used to wipe.

This happens in a virtual environment, with the installed programs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from btrfs_image import loop_device
from checkout import CHECKOUT
from ephemeroot.hooks import plan as plans
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.records import MARKER
from ephemeroot.linux import devices, mountinfo
from machine_tree import DEVICE, MAIN, STORE, MachineTree

pytestmark = [pytest.mark.requires_loop, pytest.mark.requires_program("mkfs.ext4")]

SOURCES = (
    "LICENSE", "README.md", "completions", "pyproject.toml", "dracut", "ephemeroot", "hooks",
    "mkinitcpio", "systemd", "man", "wipers",
)  # fmt: skip
FOLDER = "usr/lib/ephemeroot"

VOLUME = f"""\
[[volumes]]
mount-point = "/persistent"
device = "{DEVICE}"
type = "ext4"
"""


def example() -> dict[str, str]:
    """The files of the example, with its configuration as ``configuration``."""
    text = (CHECKOUT / "docs/plug-ins.md").read_text()
    block = r"```\w+\n(.*?)^```$"
    files = re.findall(rf"^`([\w.]+)`:\n\n{block}", text, re.MULTILINE | re.DOTALL)
    configuration = re.search(rf"^Its configuration:\n\n{block}", text, re.MULTILINE | re.DOTALL)
    assert configuration is not None
    return {**dict(files), "configuration": configuration[1]}


def run(command: Sequence[str | Path], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program without the environment of this checkout."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_"))}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def pip(cwd: Path, *words: str | Path) -> None:
    done = run([sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", *words], cwd)
    assert done.returncode == 0, done.stderr


def wheel_of(sources: Path) -> Path:
    pip(sources, "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation",
        "--wheel-dir", "dist", ".")  # fmt: skip
    (wheel,) = (sources / "dist").glob("*.whl")
    return wheel


class Environment:
    """A virtual environment with the program and, if requested, the plug-in."""

    def __init__(self, folder: Path, *wheels: Path) -> None:
        self.folder = folder
        made = run([sys.executable, "-m", "venv", "--without-pip", folder], folder.parent)
        assert made.returncode == 0, made.stderr
        self.install(*wheels)

    @property
    def python(self) -> Path:
        return self.folder / "bin/python"

    @property
    def plug_in(self) -> Path:
        (path,) = self.folder.glob("lib/python*/site-packages/ephemeroot_toram.py")
        return path

    def write_plug_in(self, text: str) -> None:
        """Replace its source, and delete the compiled file: two versions may have the same time."""
        self.plug_in.write_text(text)
        shutil.rmtree(self.plug_in.parent / "__pycache__", ignore_errors=True)

    def install(self, *wheels: Path) -> None:
        pip(self.folder, "--python", self.python, "install", "--quiet", "--no-index", "--no-deps",
            *wheels)  # fmt: skip

    def ephemeroot(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return run([self.folder / "bin/ephemeroot", *words], self.folder)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The program's wheel and the example's."""
    program = tmp_path_factory.mktemp("program")
    for name in SOURCES:
        source = CHECKOUT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source, program / name, ignore=ignored)
        elif source.exists():
            shutil.copy(source, program)
    plug_in = tmp_path_factory.mktemp("ephemeroot-toram")
    for name, text in example().items():
        if name != "configuration":
            (plug_in / name).write_text(text)
    return wheel_of(program), wheel_of(plug_in)


@pytest.fixture(scope="module")
def with_plug_in(
    wheels: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    return Environment(tmp_path_factory.mktemp("with") / "venv", *wheels)


@pytest.fixture
def environment(with_plug_in: Environment) -> Iterator[Environment]:
    """The environment with the plug-in, which a test may damage."""
    good = with_plug_in.plug_in.read_text()
    yield with_plug_in
    with_plug_in.write_plug_in(good)


@pytest.fixture
def machine(tmp_path: Path) -> MachineTree:
    return MachineTree(tmp_path / "machine", example()["configuration"] + VOLUME + STORE)


def apply(environment: Environment, machine: MachineTree) -> None:
    done = environment.ephemeroot("--root", machine.path, "apply", "--yes", "--no-images")
    assert done.returncode == 0, done.stdout + done.stderr


def image(environment: Environment, machine: MachineTree, into: Path) -> str:
    """The output of building an image; the image must be inert unless the expected text
    is empty.
    """
    done = environment.ephemeroot("--root", machine.path, "image", "--into", into)
    assert done.returncode in (0, 10), done.stderr
    return done.stderr if done.returncode == 10 else ""


def test_the_example_is_checked_packed_and_wipes(
    environment: Environment, machine: MachineTree, tmp_path: Path
) -> None:
    checked = environment.ephemeroot("--root", machine.path, "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    apply(environment, machine)
    assert image(environment, machine, tmp_path / "image") == ""
    tree = tmp_path / "image/tree"
    assert (tree / FOLDER / "ephemeroot_toram.pyc").exists()
    assert (tree / "usr/bin/cp").exists()
    assert "ext4" in (tree / FOLDER / "kernel-modules").read_text().split()
    assert (tree / "usr/lib/systemd/system/sysroot.mount.d/ephemeroot.conf").exists()
    wipe_with(tree, tmp_path)


@contextmanager
def mounted(device: str, place: Path) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", device, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def system(root: Path) -> None:
    """A system that passes the check of a bootable root."""
    for name in ("usr/lib", "sbin", "etc"):
        (root / name).mkdir(parents=True)
    (root / "usr/lib/os-release").write_text("ID=test\n")
    (root / "sbin/init").write_text("#!/bin/sh\n")
    (root / "sbin/init").chmod(0o755)


def wipe_with(tree: Path, folder: Path) -> None:
    """Run the wipe with the image's own code alone, on a real disk."""
    (folder / "disk").write_bytes(b"")
    with loop_device(folder / "disk", 64) as device:
        subprocess.run(["mkfs.ext4", "-q", device], check=True)
        with mounted(device, folder / "top") as top:
            system(top / "system")
        plan = plans.load(str(tree / FOLDER / "plan.json"))
        # The device of the store is missing: only the wiper is tested.
        plan.wipe = [operation for operation in plan.wipe if isinstance(operation, Wipe)]
        for operation in plan.wipes():
            operation.identity = {"filesystem": devices.filesystem_uuid(device)}
        (folder / "plan.json").write_bytes(plan.dump())
        sysroot = folder / "sysroot"
        sysroot.mkdir()
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-B", tree / FOLDER / "boot.pyc", "wipe",
             "--plan", folder / "plan.json", "--target", sysroot, "--run", folder / "run",
             "--verbose", "--cmdline", f"root={device}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        try:
            assert done.returncode == 0, done.stderr
            assert "copied system into memory" in done.stderr
            assert (sysroot / "usr/lib/os-release").read_text() == "ID=test\n"
            kind = subprocess.run(
                ["findmnt", "-no", "FSTYPE", sysroot], capture_output=True, text=True, check=True
            )
            assert kind.stdout.strip() == "tmpfs"
            assert not os.path.ismount(folder / "run/wiper/disk")
        finally:
            subprocess.run(["umount", sysroot], check=False, capture_output=True)


def test_init_proposes_the_plug_in(environment: Environment, machine: MachineTree) -> None:
    """For a machine that fits no other wiper; `check` accepts the proposal."""
    machine.write("etc/fstab", f"{DEVICE} / ext4 defaults 0 0\n")
    assert 'wiper = "overlay"' in environment.ephemeroot("--root", machine.path, "init").stdout
    machine.write("system/usr/lib/os-release", "ID=test\n")
    proposed = environment.ephemeroot("--root", machine.path, "init", "--json")
    assert proposed.returncode == 0, proposed.stderr
    content = json.loads(proposed.stdout)
    assert content["wiper"] == "toram"
    (step,) = [step for step in content["steps"] if step["title"] == "A volume for the store:"]
    (command,) = step["commands"]
    fstab = machine.path / "etc/fstab"
    subprocess.run(["sh", "-c", command.replace("/etc/fstab", str(fstab))], check=True)
    machine.write("etc/ephemeroot/ephemeroot.toml", content["configuration"])
    checked = environment.ephemeroot("--root", machine.path, "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.usefixtures("private_mounts")
def test_rehearse_accepts_a_wiper_without_old_roots(
    environment: Environment, machine: MachineTree, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        disks = []
        for name in ("disk", "store"):
            (tmp_path / name).write_bytes(b"")
            disks.append(stack.enter_context(loop_device(tmp_path / name, 64)))
            subprocess.run(["mkfs.ext4", "-q", disks[-1]], check=True)
        with mounted(disks[0], tmp_path / "top") as top:
            system(top / "system")
        with mounted(disks[1], tmp_path / "top") as top:
            shutil.copy(machine.path / "persistent" / MARKER, top)
        text = (machine.path / MAIN).read_text()
        machine.write(MAIN, text.replace(DEVICE, disks[1]))
        machine.write("etc/kernel/cmdline", f"root={disks[0]} ro\n")
        done = environment.ephemeroot("--root", machine.path, "rehearse", "--json")
        content = json.loads(done.stdout)
        assert content["would-boot"], done.stdout + done.stderr
        said = [f"{one['line']}: {one['result']}" for one in content["operations"]]
        assert "copy system of the device of root= into memory as /: fresh" in said
        assert not [line for line in mountinfo.mounts() if line.source in disks]
        apply(environment, machine)
        listed = environment.ephemeroot("--root", machine.path, "roots", "list")
        assert listed.returncode == 0, listed.stdout + listed.stderr


def test_reports_a_missing_plug_in(
    wheels: tuple[Path, Path], environment: Environment, machine: MachineTree, tmp_path: Path
) -> None:
    """It was never installed, or uninstalled after the plan was made."""
    without = Environment(tmp_path / "venv", wheels[0])
    checked = without.ephemeroot("--root", machine.path, "check")
    assert checked.returncode == 2
    assert "there is no wiper 'toram'" in checked.stdout + checked.stderr
    apply(environment, machine)
    said = image(without, machine, tmp_path / "image")
    assert "INERT" in said
    assert "the wiper toram (ephemeroot_toram:ToRam) is missing" in said


@pytest.mark.parametrize(
    ("good", "bad", "checked", "imaged"),
    [
        ("import os\n", "import os\nraise RuntimeError('no luck')\n", "RuntimeError: no luck",
         "RuntimeError: no luck"),
        ("import os\n", "import os, no_such_library\n", "No module named 'no_such_library'",
         "No module named 'no_such_library'"),
        ("    OPTIONS = (", "    OPTIONS = (,", "SyntaxError", "SyntaxError"),
        ('    NAME = "toram"\n', '    NAME = "toram"\n    API = 99\n',
         "was written for version 99 of the contract",
         "was written for version 99 of the contract"),
        ('        Option("size", "amount", "75%", ', '        Option("limit", "amount", "75%", ',
         "unknown key `size`", "does not have the option size, which the applied plan"),
        ("        if settings[\"type\"] in", "        if settings[\"kind\"] in",
         "cannot check its settings: KeyError", None),
        ('        return Needs(kernel', '        return 1 / 0 or Needs(kernel', None,
         "does not list its requirements: ZeroDivisionError"),
        ('        return Needs(kernel', '        return None and Needs(kernel', None,
         "does not list its requirements: it returned None"),
        ('programs=("cp",)', 'programs=("no-such-program",)', None,
         "the program no-such-program is not installed"),
    ],
)  # fmt: skip
def test_reports_a_broken_plug_in(
    environment: Environment,
    machine: MachineTree,
    tmp_path: Path,
    good: str,
    bad: str,
    checked: str | None,
    imaged: str | None,
) -> None:
    """Each fault is found before a boot: by `check`, when an image is built, or by both."""
    apply(environment, machine)
    text = environment.plug_in.read_text()
    assert text.count(good) == 1
    environment.write_plug_in(text.replace(good, bad))
    said = environment.ephemeroot("--root", machine.path, "check")
    assert "Traceback" not in said.stderr
    assert said.returncode == (2 if checked else 0), said.stdout + said.stderr
    assert (checked or "") in said.stdout + said.stderr
    built = image(environment, machine, tmp_path / "image")
    assert (imaged or "") in built
    assert ("INERT" in built) == bool(imaged)
    assert "Traceback" not in built


def test_refuses_an_unknown_wiper(environment: Environment, machine: MachineTree) -> None:
    text = (machine.path / "etc/ephemeroot/ephemeroot.toml").read_text()
    machine.write("etc/ephemeroot/ephemeroot.toml", text.replace('size = "1G"', 'sise = "1G"'))
    checked = environment.ephemeroot("--root", machine.path, "check")
    assert checked.returncode == 2
    assert "unknown key `sise` hint: did you mean `size`?" in " ".join(
        (checked.stdout + checked.stderr).replace(" (", "; ").split()
    )
