"""The two hooks of mkinitcpio with its documented functions (mkinitcpio(8)).

`ephemeroot image` is the real program; mkinitcpio's own functions are replaced by one line each.
Real builds and boots are in vm-tests.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from ephemeroot import cli
from ephemeroot.image import data
from image_plans import plan, volume, wipe

pytestmark = pytest.mark.requires_root

# Only the documented behaviour of each function.
MKINITCPIO = """
set -u
error() { printf "error $1\\n" "${@:2}" >&2; }
note() { printf '%s\\n' "$*"; }
add_dir() { note "dir $1"; mkdir -p "$BUILDROOT$1"; }
add_file() { mkdir -p "$BUILDROOT${2%/*}"; install -Dm"$3" "$1" "$BUILDROOT$2"; }
add_symlink() { mkdir -p "$BUILDROOT${1%/*}"; ln -sfn "$2" "$BUILDROOT$1"; }
add_module() { note "module $1"; }
add_runscript() { note "runscript ${BASH_SOURCE[1]##*/}"; }
HOOKS=($CONFIGURED)
_hooks=($EFFECTIVE)
. "$install"
build
note complete
"""

OWN_INIT = "base udev autodetect block encrypt lvm2 resume ephemeroot filesystems fsck"
SYSTEMD = "base systemd autodetect block sd-encrypt ephemeroot filesystems"


@dataclass
class Built:
    status: int
    lines: list[str]
    names: set[str]


class Mkinitcpio:
    """A system below ``root`` with the hooks installed, and a build folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "root"
        (self.root / "etc/ephemeroot").mkdir(parents=True)
        self.program = folder / "ephemeroot"
        self.program.write_text(
            f"#!{sys.executable} -P\nimport sys\nfrom ephemeroot.cli import main\n"
            f'sys.exit(main([*sys.argv[1:], "--root", "{self.root}"]))\n'
        )
        self.program.chmod(0o755)
        words = ["setup", "mkinitcpio", "--root", str(self.root), "--program", str(self.program)]
        assert cli.main(words) == 0
        self.buildroot = folder / "image"
        (self.buildroot / "usr/lib").mkdir(parents=True)
        (self.buildroot / "lib").symlink_to("usr/lib")

    def apply(self, raw: bytes) -> None:
        (self.root / "etc/ephemeroot/plan.json").write_bytes(raw)

    def build(self, hooks: str = OWN_INIT, configured: str | None = None) -> Built:
        done = subprocess.run(
            ["bash", "-c", MKINITCPIO],
            capture_output=True,
            text=True,
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "TMPDIR": str(self.folder),
                "BUILDROOT": str(self.buildroot),
                "EPHEMEROOT_ROOT": str(self.root),
                "install": str(self.root / "usr/lib/initcpio/install/ephemeroot"),
                "EFFECTIVE": hooks,
                "CONFIGURED": configured if configured is not None else hooks,
            },
        )
        found = self.buildroot.rglob("*")
        names = {str(p.relative_to(self.buildroot)) for p in found if p.is_symlink() or p.is_file()}
        return Built(done.returncode, (done.stdout + done.stderr).splitlines(), names - {"lib"})


@pytest.fixture
def mkinitcpio(tmp_path: Path) -> Mkinitcpio:
    return Mkinitcpio(tmp_path)


ARMED = plan(volume(mount_point="/boot", name="boot", type="vfat"), wipe()).dump()

INERT = {
    "usr/lib/ephemeroot/boot",
    "usr/lib/ephemeroot/inert",
    "usr/lib/systemd/system/ephemeroot-inert.service",
    "usr/lib/systemd/system/initrd.target.wants/ephemeroot-inert.service",
}


def test_builds_an_armed_image_with_its_own_init(mkinitcpio: Mkinitcpio) -> None:
    mkinitcpio.apply(ARMED)
    built = mkinitcpio.build()
    assert (built.status, built.lines[-2:][0]) == (0, "complete"), built.lines
    assert "runscript ephemeroot" in built.lines
    # Without the question mark, a module that is built into the kernel is an error.
    assert {"module btrfs?", "module vfat?", "module nls_cp437?"} <= set(built.lines)
    assert {"usr/lib/ephemeroot/plan.json", "usr/lib/ephemeroot/boot.pyc"} <= built.names
    assert not any("systemd/system" in name for name in built.names)
    assert (mkinitcpio.buildroot / "usr/lib/ephemeroot/boot").stat().st_mode & 0o777 == 0o755
    # The stage waits for devices itself, through udev's events.
    settings = (mkinitcpio.buildroot / "usr/lib/ephemeroot/settings").read_text()
    assert "options='--check --wait'\n" in settings
    assert any(name.endswith("/pyudev/monitor.pyc") for name in built.names)
    assert not list(mkinitcpio.folder.glob("tmp.*"))


def test_builds_an_armed_image_with_systemd(mkinitcpio: Mkinitcpio) -> None:
    mkinitcpio.apply(ARMED)
    built = mkinitcpio.build(SYSTEMD)
    assert built.status == 0
    assert not any(line.startswith("runscript") for line in built.lines)
    link = mkinitcpio.buildroot / (
        "usr/lib/systemd/system/sysroot.mount.requires/ephemeroot-wipe.service"
    )
    assert str(link.readlink()) == "../ephemeroot-wipe.service"
    assert link.exists()


@pytest.mark.parametrize(
    ("hooks", "said", "line"),
    [
        (
            "base udev ephemeroot block resume filesystems",
            "ephemeroot before block, resume",
            "HOOKS=(base udev block resume ephemeroot filesystems)",
        ),
        (
            "ephemeroot base udev zfs filesystems",
            "ephemeroot before udev, zfs",
            "HOOKS=(base udev zfs ephemeroot filesystems)",
        ),
        (
            "base udev block ephemeroot net filesystems",
            "ephemeroot before net",
            "HOOKS=(base udev block net ephemeroot filesystems)",
        ),
        (
            "base block ephemeroot filesystems",
            "neither systemd nor base and udev",
            "HOOKS=(base udev block ephemeroot filesystems)",
        ),
        (
            "base udev usr block filesystems ephemeroot fsck",
            "ephemeroot after usr",
            "HOOKS=(base udev block ephemeroot usr filesystems fsck)",
        ),
    ],
)
def test_is_inert_with_hooks_in_a_wrong_order(
    mkinitcpio: Mkinitcpio, hooks: str, said: str, line: str
) -> None:
    mkinitcpio.apply(ARMED)
    built = mkinitcpio.build(hooks)
    assert (built.status, built.names) == (0, INERT)
    assert any("INERT" in text for text in built.lines if text.startswith("error"))
    reason = (mkinitcpio.buildroot / "usr/lib/ephemeroot/inert").read_text()
    assert said in reason
    assert line in reason


def test_adds_nothing_to_the_fallback_image(mkinitcpio: Mkinitcpio) -> None:
    mkinitcpio.apply(ARMED)
    without = OWN_INIT.replace("autodetect ", "")
    built = mkinitcpio.build(without, OWN_INIT)
    assert (built.status, built.names) == (0, set())
    assert any("fallback" in line for line in built.lines)
    assert "runscript ephemeroot" not in built.lines
    # A system that never uses autodetect has no fallback image either.
    assert "usr/lib/ephemeroot/plan.json" in mkinitcpio.build(without, without).names


def test_adds_nothing_if_nothing_was_applied(mkinitcpio: Mkinitcpio) -> None:
    built = mkinitcpio.build()
    assert (built.status, built.names) == (0, set())
    assert not any(line.startswith("error") for line in built.lines)


@pytest.mark.parametrize("hooks", [OWN_INIT, SYSTEMD])
def test_is_inert_if_the_program_does_not_run(mkinitcpio: Mkinitcpio, hooks: str) -> None:
    mkinitcpio.apply(ARMED)
    mkinitcpio.program.unlink()
    built = mkinitcpio.build(hooks)
    assert (built.status, built.names) == (0, INERT)
    assert "runscript ephemeroot" in built.lines
    reason = (mkinitcpio.buildroot / "usr/lib/ephemeroot/inert").read_text()
    assert "exit status 127" in reason


def test_adds_nothing_if_the_program_does_not_run_and_nothing_was_applied(
    mkinitcpio: Mkinitcpio,
) -> None:
    mkinitcpio.program.unlink()
    built = mkinitcpio.build()
    assert (built.status, built.names) == (0, set())
    assert "complete" in built.lines


def test_a_file_that_cannot_be_copied_ends_the_build(mkinitcpio: Mkinitcpio) -> None:
    mkinitcpio.apply(ARMED)
    (mkinitcpio.buildroot / "usr/lib/ephemeroot").write_text("a file in the way")
    built = mkinitcpio.build()
    assert built.status == 1
    assert "complete" not in built.lines


RUN = """
root=UUID=x resume=/dev/swap EMERGENCYHOOKS=
resolve_device() { echo "resolve $1" >> log; }
run_hookfunctions() { :; }
launch_interactive_shell() { echo shell >> log; SHELLS=$((SHELLS + 1)); eval "$ANSWER"; }
sleep() { :; }
mkdir() { :; }
fsck_root() { echo fsck >> log; }
usual() { echo "usual $1" >> log; }
mount_handler=usual
SHELLS=0
. ./hook
eval "$1"
echo "returned" >> log
"""


@dataclass
class Ran:
    log: list[str]
    out: str


def ran(tmp_path: Path, function: str, boot: str, answer: str = "exit 9") -> Ran:
    """Run the run-time hook with a stage that is the shell script *boot*.

    *answer* is typed in the emergency shell.
    """
    hook = (data.folder("mkinitcpio") / "hooks/ephemeroot").read_text()
    ours = tmp_path / "ours"
    ours.mkdir(exist_ok=True)
    (ours / "boot").write_text(f'echo "boot $*" >> log; {boot}\n')
    hook = hook.replace("/usr/lib/ephemeroot", str(ours))
    hook = hook.replace("/proc/mounts", str(tmp_path / "mounts"))
    hook = hook.replace("/hooks/", f"{tmp_path}/hooks/")
    (tmp_path / "mounts").touch()
    (tmp_path / "hook").write_text(hook.replace("/run/ephemeroot", str(tmp_path)))
    shell = ["busybox", "sh"] if shutil.which("busybox") else ["sh"]
    done = subprocess.run(
        [*shell, "-c", RUN, "sh", function],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "ANSWER": answer},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return Ran((tmp_path / "log").read_text().splitlines(), done.stdout)


def test_runs_the_stages_at_boot(tmp_path: Path) -> None:
    log = ran(tmp_path, "run_hook", "exit 0").log
    assert log == [
        "resolve UUID=x",
        "resolve /dev/swap",
        "boot wipe /new_root",
        "returned",
    ]
    (tmp_path / "log").unlink()
    assert ran(tmp_path, "run_latehook", "exit 0").log == ["boot persist /new_root", "returned"]


@pytest.mark.parametrize(
    ("boot", "mounted"), [("echo tmpfs new_root tmpfs >> mounts", True), ("exit 0", False)]
)
def test_a_wiper_mounts_the_root_with_inits_mount_handler(
    tmp_path: Path, boot: str, mounted: bool
) -> None:
    """It runs after fsck of init; a root that is kept is mounted by the usual handler."""
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours/mounts-root").write_text("")
    (tmp_path / "mounts").write_text("proc proc proc\n")
    log = ran(tmp_path, "run_hook; fsck_root; $mount_handler new_root", boot).log
    assert log[2:] == [
        "fsck",
        "boot wipe /new_root",
        *([] if mounted else ["usual new_root"]),
        "returned",
    ]


@pytest.mark.parametrize("is_volume", [True, False])
def test_a_usr_that_is_a_volume_is_not_checked_and_mounted_again(
    tmp_path: Path, is_volume: bool
) -> None:
    """mkinitcpio's hook for /usr does that; init skips a hook that is not executable."""
    (tmp_path / "hooks").mkdir()
    usr = tmp_path / "hooks/usr"
    usr.touch(0o755)
    boot = 'echo "/dev/vda /new_root/usr ext4" >> mounts' if is_volume else "exit 0"
    assert ran(tmp_path, "run_latehook", boot).log[-1] == "returned"
    assert usr.stat().st_mode & 0o777 == (0o644 if is_volume else 0o755)


def test_leaving_the_shell_does_not_continue_after_a_failed_stage(tmp_path: Path) -> None:
    """mkinitcpio's init continues when its shell ends: our shell starts again until the fault is
    repaired.
    """
    mended = "[ -e mended ]"
    result = ran(tmp_path, "run_latehook", mended, '[ "$SHELLS" -lt 3 ] || : > mended')
    assert result.log == ["boot persist /new_root", "shell"] * 3 + [
        "boot persist /new_root",
        "returned",
    ]


def test_a_word_in_the_shell_continues_after_a_failed_stage(tmp_path: Path) -> None:
    result = ran(tmp_path, "run_hook", "exit 1", ": > go-on")
    assert "touch" in result.out
    assert result.log[-4:] == ["boot wipe /new_root", "shell", "boot wipe /new_root", "returned"]


def test_an_inert_image_says_why_once(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours/inert").write_text("why\n")
    assert ran(tmp_path, "run_hook", "exit 0").log == ["boot inert", "returned"]
    (tmp_path / "log").unlink()
    assert ran(tmp_path, "run_latehook", "exit 0").log == ["returned"]
