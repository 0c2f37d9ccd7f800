"""The dracut module with dracut's documented functions (dracut.modules(7)).

`ephemeroot image` is the real program; dracut's own functions are replaced by one line each. Real
builds and boots are in vm-tests.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from btrfs_image import loop_device, mkfs, mounted
from ephemeroot import cli
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.image import data
from ephemeroot.wipers.overlay import Overlay
from image_plans import plan, volume, wipe

pytestmark = pytest.mark.requires_root

DRACUT = """
set -u
mount_needs=
dinfo() { echo "info $*"; }
derror() { echo "error $*"; }
dfatal() { echo "fatal $*"; }
dracut_module_included() { [[ " $included " == *\\ $1\\ * ]]; }
dracut_need_initqueue() { echo need-initqueue; }
inst_multiple() { echo "programs $*"; }
inst_hook() { echo "hook $1 $2 ${3##*/}"; cp "$3" "$DRACUT_TMPDIR/"; }
instmods() { echo "module hostonly=$hostonly $*"; }
hostonly=-h
. "$moddir/module-setup.sh"
check || exit 99
depends | sed 's/^/depends /'
install
installkernel || exit 98
echo complete
"""


@dataclass
class Built:
    status: int
    lines: list[str]
    names: set[str]
    folder: Path


class Dracut:
    """A system below ``root`` with the module installed, and a build folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "root"
        (self.root / "etc/ephemeroot").mkdir(parents=True)
        program = folder / "ephemeroot"
        program.write_text(
            f"#!{sys.executable} -P\nimport sys\nfrom ephemeroot.cli import main\n"
            f'sys.exit(main([*sys.argv[1:], "--root", "{self.root}"]))\n'
        )
        program.chmod(0o755)
        arguments = ["setup", "dracut", "--root", str(self.root), "--program", str(program)]
        assert cli.main(arguments) == 0
        self.module = self.root / "usr/lib/dracut/modules.d/50ephemeroot"
        self.initdir = folder / "tmp/initramfs"
        # Files that other modules have installed before.
        (self.initdir / "usr/lib").mkdir(parents=True)
        (self.initdir / "usr/bin").mkdir()
        (self.initdir / "lib").symlink_to("usr/lib")
        (self.initdir / "bin").symlink_to("usr/bin")

    def apply(self, raw: bytes) -> None:
        (self.root / "etc/ephemeroot/plan.json").write_bytes(raw)

    def build(
        self,
        included: str = "base dracut-systemd",
        environment: Mapping[str, str] | None = None,
    ) -> Built:
        done = subprocess.run(
            ["bash", "-c", DRACUT],
            capture_output=True,
            text=True,
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "moddir": str(self.module),
                "initdir": str(self.initdir),
                "DRACUT_TMPDIR": str(self.folder / "tmp"),
                "dracutsysrootdir": str(self.root),
                "included": included,
                **(environment or {}),
            },
        )
        names = {
            str(p.relative_to(self.initdir))
            for p in self.initdir.rglob("*")
            if p.is_symlink() or p.is_file()
        }
        lines = (done.stdout + done.stderr).splitlines()
        return Built(done.returncode, lines, names - {"lib", "bin"}, self.folder / "tmp")


@pytest.fixture
def dracut(tmp_path: Path) -> Dracut:
    return Dracut(tmp_path)


SAYING_WHAT_IS_MISSING = [
    f"hook {kind} 05 ephemeroot-missing.sh" for kind in ("emergency", "shutdown-emergency")
]


def hooks(built: Built) -> list[str]:
    return [line for line in built.lines if line.startswith("hook")]


def test_without_systemd_the_stages_are_hooks(dracut: Dracut) -> None:
    """After the hook of resume (pre-mount 10) and before the one that mounts /usr
    (pre-pivot 50).
    """
    dracut.apply(plan(volume(mount_point="/data", name="data", type="ext4"), wipe()).dump())
    built = dracut.build("base")
    assert built.status == 0, built.lines
    assert hooks(built) == [
        "hook initqueue/finished 50 ephemeroot-wait.sh",
        *SAYING_WHAT_IS_MISSING,
        "hook pre-mount 50 ephemeroot-wipe.sh",
        "hook pre-pivot 30 ephemeroot-persist.sh",
    ]
    assert "programs -o sleep reboot poweroff" in built.lines
    assert not any("systemd/system" in name for name in built.names)
    settings = (dracut.initdir / "usr/lib/ephemeroot/settings").read_text()
    assert "init=dracut\n" in settings
    assert "options='--check --wait'\n" in settings
    # A wiper of a separate package, with its library, although no import leads to either.
    assert any(name.endswith("/pyudev/__init__.pyc") for name in built.names)
    assert any("/libudev.so" in name for name in built.names)


TMPFS = Wipe(target="/", wiper="tmpfs", attribute="ephemeroot.wipers.tmpfs:Tmpfs", settings={})
OVERLAY = Wipe(
    target="/",
    wiper="overlay",
    attribute="ephemeroot.wipers.overlay:Overlay",
    settings={option.name: option.default for option in Overlay.OPTIONS},
)


@pytest.mark.parametrize(("operation", "claimed"), [(TMPFS, True), (OVERLAY, False)])
def test_without_systemd_a_wiper_mounts_the_root_in_the_mount_hooks(
    dracut: Dracut, operation: Wipe, claimed: bool
) -> None:
    """It is the first of them. A root without a device sets rootok, or dracut's init would not
    continue.
    """
    dracut.apply(plan(operation).dump())
    built = dracut.build("base")
    assert built.status == 0, built.lines
    others = (*SAYING_WHAT_IS_MISSING, "hook initqueue/finished 50 ephemeroot-wait.sh")
    assert [line for line in hooks(built) if line not in others] == [
        *(["hook cmdline 96 ephemeroot-root.sh"] if claimed else []),
        "hook mount 00 ephemeroot-wipe.sh",
        "hook pre-pivot 30 ephemeroot-persist.sh",
    ]


@pytest.mark.parametrize(("root", "claimed"), [("tmpfs", "1"), ("", "")])
def test_a_root_without_a_device_sets_rootok(root: str, claimed: str) -> None:
    hook = data.folder("dracut") / "50ephemeroot/ephemeroot-root.sh"
    script = f'rootok=; root="{root}"; . "{hook}"; echo "$rootok"'
    done = subprocess.run(["sh", "-euc", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{claimed}\n", "")


@pytest.mark.parametrize("broken", ["plan", "program"])
def test_without_systemd_an_inert_image_says_why(dracut: Dracut, broken: str) -> None:
    dracut.apply(plan().dump()[:-20])
    if broken == "program":
        (dracut.folder / "ephemeroot").unlink()
    built = dracut.build("base")
    assert (built.status, built.names) == (0, INERT)
    assert hooks(built) == ["hook pre-mount 50 ephemeroot-inert.sh"]


INIT = 'NEWROOT=/sysroot; hookdir=hooks; ismounted() { [ "$1" = "$mounted" ]; }; mounted=; '


@pytest.mark.parametrize("is_volume", [True, False])
def test_a_usr_that_is_a_volume_is_not_checked_and_mounted_again(
    tmp_path: Path, is_volume: bool
) -> None:
    """dracut's hook for /usr does that. dracut has listed its hooks before, so none may
    be removed.
    """
    hook = (data.folder("dracut") / "50ephemeroot/ephemeroot-persist.sh").read_text()
    (tmp_path / "boot").write_text("exit 0\n")
    (tmp_path / "hook").write_text(hook.replace("/usr/lib/ephemeroot/boot", str(tmp_path / "boot")))
    (tmp_path / "hooks/pre-pivot").mkdir(parents=True)
    usr = tmp_path / "hooks/pre-pivot/50-mount-usr.sh"
    usr.write_text("mount_usr\n")
    script = f"{INIT}mounted={'/sysroot/usr' if is_volume else ''}; . ./hook"
    done = subprocess.run(["sh", "-euc", script], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert usr.read_text() == ("" if is_volume else "mount_usr\n")


@pytest.mark.parametrize("name", ["wipe", "persist"])
@pytest.mark.parametrize("status", [0, 1, 127])
def test_a_failed_hook_stops_the_boot_unless_its_stage_continues(
    tmp_path: Path, name: str, status: int
) -> None:
    """dracut ignores the exit status of a hook."""
    hook = (data.folder("dracut") / f"50ephemeroot/ephemeroot-{name}.sh").read_text()
    boot = tmp_path / "boot"
    boot.write_text(f'echo "boot $*"; exit {status}\n')
    (tmp_path / "hook").write_text(hook.replace("/usr/lib/ephemeroot/boot", str(boot)))
    script = f'{INIT}die() {{ echo "died: $*"; exit 1; }}; . ./hook; echo mounted'
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[0] == f"boot {name} /sysroot"
    assert ("mounted" in lines) == (status == 0)
    assert any(line.startswith("died: ephemeroot") for line in lines) == (status != 0)


INERT = {
    "usr/lib/ephemeroot/boot",
    "usr/lib/ephemeroot/inert",
    "usr/lib/systemd/system/ephemeroot-inert.service",
    "usr/lib/systemd/system/initrd.target.wants/ephemeroot-inert.service",
}


def test_builds_an_armed_image(dracut: Dracut) -> None:
    dracut.apply(plan(volume(mount_point="/data", name="data", type="ext4"), wipe()).dump())
    built = dracut.build()
    assert built.status == 0, built.lines
    assert "complete" in built.lines
    assert "usr/lib/ephemeroot/plan.json" in built.names
    assert "usr/lib/systemd/system/sysroot.mount.requires/ephemeroot-wipe.service" in built.names
    # Existing links are still links.
    assert (dracut.initdir / "lib").is_symlink()
    assert (dracut.initdir / "usr/lib/ephemeroot/boot").stat().st_mode & 0o777 == 0o755
    assert "module hostonly= btrfs" in built.lines
    assert "module hostonly= ext4" in built.lines
    assert hooks(built) == [
        "hook initqueue/finished 50 ephemeroot-wait.sh",
        *SAYING_WHAT_IS_MISSING,
    ]
    assert "need-initqueue" in built.lines
    # dracut's loop has waited already: the wait of systemd's units is only for events that udev
    # still has to process.
    (unit,) = dracut.initdir.glob("usr/lib/systemd/system/dev-*.device.d/zz-ephemeroot.conf")
    assert "After=cryptsetup.target dracut-initqueue.service\n" in unit.read_text()
    assert "JobRunningTimeoutSec=10\n" in unit.read_text()


class Loop:
    """dracut's main loop, as seen by the hook that keeps it running."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        hook = (data.folder("dracut") / "50ephemeroot/ephemeroot-wait.sh").read_text()
        for place in ("/usr/lib/ephemeroot", "/run/ephemeroot", "/sys/block"):
            hook = hook.replace(place, str(folder / place.rpartition("/")[2]))
        (folder / "ephemeroot").mkdir()
        (folder / "hook").write_text(hook)

    def device(self, name: str, seconds: int) -> Path:
        with (self.folder / "ephemeroot/devices").open("a") as devices:
            devices.write(f"{seconds} {self.folder / name}\n")
        return self.folder / name

    def array(self, state: str) -> None:
        (self.folder / "block/md127/md").mkdir(parents=True, exist_ok=True)
        (self.folder / "block/md127/md/array_state").write_text(f"{state}\n")

    def is_finished(self, rounds: int) -> bool:
        words = {"main_loop": str(rounds), "RDRETRY": "360", "PATH": "/usr/bin:/bin"}
        done = subprocess.run(["sh", "-c", f"(. '{self.folder}/hook')"], env=words, stderr=-1)
        assert done.stderr == b""
        return done.returncode == 0

    @property
    def has_waited(self) -> bool:
        return (self.folder / "ephemeroot/waited").exists()


def test_the_loop_waits_for_all_devices_but_not_without_end(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    first, second = loop.device("a", 5), loop.device("b", 8)
    assert not loop.is_finished(0)
    first.touch()
    assert not loop.is_finished(15)
    assert not loop.has_waited
    second.touch()
    assert loop.is_finished(0)
    second.unlink()
    assert loop.is_finished(16)
    assert loop.has_waited


def test_the_loop_waits_until_dracut_starts_an_array_that_lacks_a_disk(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    loop.device("a", 5)
    loop.array("inactive")
    assert not loop.is_finished(300)
    loop.array("clean")
    assert loop.is_finished(300)


def test_dracut_never_gives_up_before_the_stage_can_report(tmp_path: Path) -> None:
    """dracut gives up after more rounds than rd.retry= allows."""
    loop = Loop(tmp_path)
    loop.device("a", 86400)
    assert not loop.is_finished(359)
    assert loop.is_finished(360)
    assert not loop.has_waited, "the stage has time left"


@pytest.mark.parametrize(
    ("words", "absent", "speaks"),
    [
        ("root=UUID=1-2", True, True),
        ("root=block:/dev/sda2", True, True),
        ("root=/dev/null", True, False),  # the device exists: the failure has another cause
        ("root=zfs:tank/root", True, False),
        ("root=UUID=1-2", False, False),  # the stage has run
        ("root=UUID=1-2 rd.break", True, False),
        ("root=UUID=1-2 rd.break=initqueue", True, False),
    ],
)
def test_before_dracuts_shell_the_stage_names_the_missing_device(
    tmp_path: Path, words: str, absent: bool, speaks: bool
) -> None:
    """With dracut's functions as described in its manual and in its dracut-lib.sh."""
    hook = (data.folder("dracut") / "50ephemeroot/ephemeroot-missing.sh").read_text()
    for place in ("/usr/lib/ephemeroot", "/run/ephemeroot"):
        hook = hook.replace(place, str(tmp_path))
    (tmp_path / "hook").write_text(hook)
    (tmp_path / "boot").write_text(f'echo called "$@"\nls {tmp_path}/waited\n')
    if not absent:
        (tmp_path / "boot.json").write_text("{}")
    functions = """
getarg() {
    for word in $words; do
        case $1=$word in "$1=$1") return ;; *==*) ;; "$1=$1"=*) return 1 ;; esac
        case $1 in *=) case $word in "$1"*) echo "${word#"$1"}"; return ;; esac ;; esac
    done
    return 1
}
label_uuid_to_dev() {
    device=${1#block:}
    case $device in UUID=*) echo "/dev/disk/by-uuid/${device#UUID=}" ;; *) echo "$device" ;; esac
}
"""
    done = subprocess.run(
        ["sh", "-uc", f"{functions}. '{tmp_path}/hook'; echo on"],
        env={"words": words, "NEWROOT": "/sysroot", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    called = f"called wipe /sysroot\n{tmp_path}/waited\n" if speaks else ""
    assert done.stdout == f"{called}on\n"


def test_without_a_timeout_the_loop_never_reports_that_it_has_waited(dracut: Dracut) -> None:
    dracut.apply(plan(volume(device="/nowhere", timeout=0), wipe()).dump())
    dracut.build()
    waited = (dracut.initdir / "usr/lib/ephemeroot/devices").read_text().splitlines()
    assert "86400 /nowhere" in waited


def added(dracut: Dracut) -> list[str]:
    """The devices that dracut's configuration of the machine adds; bash reads that file."""
    conf = dracut.root / "usr/lib/dracut/dracut.conf.d/50-ephemeroot.conf"
    script = f"add_device=' /dev/mine '; . '{conf}'; printf '%s\\n' $add_device"
    done = subprocess.run(["bash", "-uc", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_adds_the_devices_of_the_volumes_to_dracuts(dracut: Dracut) -> None:
    """dracut then examines them (LUKS, LVM, MD) like the root's."""
    assert added(dracut) == ["/dev/mine"], "no plan was applied"
    link = dracut.folder / "link"
    link.symlink_to("/dev/null")
    there = volume(mount_point="/data", name="data", device=str(link))
    gone = volume(mount_point="/gone", name="gone", device="LABEL=not here")
    dracut.apply(plan(there, gone, wipe()).dump())
    assert added(dracut) == ["/dev/mine", "/dev/null"]
    dracut.apply(plan().dump()[:-20])
    assert added(dracut) == ["/dev/mine"]


@pytest.mark.requires_loop
def test_adds_all_devices_of_one_btrfs(dracut: Dracut, tmp_path: Path) -> None:
    """Each may be inside its own LUKS, and a name leads to only one of them."""
    with ExitStack() as stack:
        loops = [stack.enter_context(loop_device(tmp_path / n, 120)) for n in ("one", "two")]
        mkfs(*loops)
        named = volume(mount_point="/data", name="data", device=loops[1], type="btrfs")
        dracut.apply(plan(named, wipe()).dump())
        assert set(added(dracut)) == {"/dev/mine", loops[1]}, "what the rest is, is not known yet"
        stack.enter_context(mounted(loops[0], tmp_path / "top"))
        assert set(added(dracut)) == {"/dev/mine", *loops}


def test_adds_nothing_if_nothing_was_applied(dracut: Dracut) -> None:
    built = dracut.build()
    assert (built.status, built.names) == (0, set())
    assert not any(line.startswith(("error", "fatal")) for line in built.lines)
    assert any("no plan is applied" in line for line in built.lines)
    built = dracut.build("base")
    assert (built.status, built.names) == (0, set())
    assert not any(line.startswith(("programs", "hook")) for line in built.lines)


@pytest.mark.parametrize(
    "environment",
    [
        {"IN_KDUMP": "1"},
        {"dracutmodules": "bash systemd kdump base"},
        {"add_dracutmodules": " kdumpbase "},
        {"force_add_dracutmodules": " kdump"},
    ],
    ids=lambda found: next(iter(found)),
)
def test_adds_nothing_to_the_image_of_a_crash_kernel(
    dracut: Dracut, environment: dict[str, str]
) -> None:
    """kdump-utils, openSUSE's kdump and SteamOS call dracut like this."""
    dracut.apply(plan(wipe()).dump())
    assert dracut.build(environment=environment).status == 99, "check() says no"


def test_a_module_whose_name_begins_with_kdump_is_not_a_crash_kernel(dracut: Dracut) -> None:
    dracut.apply(plan(wipe()).dump())
    assert dracut.build(environment={"add_dracutmodules": " btrfs kdumper "}).status == 0


def test_adds_nothing_together_with_a_module_that_writes_dumps(dracut: Dracut) -> None:
    """A configuration file of dracut may add kdumpbase, of which our check() does not learn."""
    dracut.apply(plan(wipe()).dump())
    built = dracut.build("base dracut-systemd kdumpbase")
    assert built.names == set()
    assert built.lines[-1] == "complete"


def test_adds_nothing_to_a_rescue_image(dracut: Dracut) -> None:
    dracut.apply(plan().dump())
    built = dracut.build("base dracut-systemd rescue")
    assert (built.status, built.names) == (0, set())


def test_the_emergency_module_is_enough(dracut: Dracut) -> None:
    dracut.apply(plan().dump())
    assert "usr/lib/ephemeroot/plan.json" in dracut.build("base systemd-emergency").names


def test_is_inert_without_an_emergency_shell(dracut: Dracut) -> None:
    dracut.apply(plan().dump())
    built = dracut.build("base systemd")
    assert (built.status, built.names) == (0, INERT)
    assert any("INERT" in line for line in built.lines if line.startswith("error"))
    assert "emergency shell" in (dracut.initdir / "usr/lib/ephemeroot/inert").read_text()
    assert not any(line.startswith(("hook", "module")) for line in built.lines)


def test_is_inert_with_a_damaged_plan(dracut: Dracut) -> None:
    dracut.apply(plan().dump()[:-20])
    built = dracut.build()
    assert (built.status, built.names) == (0, INERT)


@pytest.mark.parametrize("program", ["#!/bin/sh\nexit 1\n", "#!/nonexistent/python\n", None])
def test_is_inert_if_the_program_does_not_run(dracut: Dracut, program: str | None) -> None:
    """A virtual environment was deleted, or its Python removed by an upgrade."""
    dracut.apply(plan().dump())
    if program is None:
        (dracut.folder / "ephemeroot").unlink()
    else:
        (dracut.folder / "ephemeroot").write_text(program)
    built = dracut.build()
    assert (built.status, built.names) == (0, INERT)
    assert any("INERT" in line for line in built.lines if line.startswith("error"))
    assert "exit status" in (dracut.initdir / "usr/lib/ephemeroot/inert").read_text()


def test_adds_nothing_if_the_program_does_not_run_and_nothing_was_applied(dracut: Dracut) -> None:
    (dracut.folder / "ephemeroot").unlink()
    built = dracut.build()
    assert (built.status, built.names) == (0, set())


def test_a_file_that_cannot_be_copied_ends_the_build(dracut: Dracut) -> None:
    """The machine keeps its existing image."""
    dracut.apply(plan().dump())
    (dracut.initdir / "usr/lib/ephemeroot").write_text("a file in the way")
    built = dracut.build()
    assert built.status == 1
    assert any(line.startswith("fatal") for line in built.lines)
    assert "complete" not in built.lines


@pytest.mark.parametrize("there", [True, False])
def test_requests_the_network_modules_of_dracut(tmp_path: Path, there: bool) -> None:
    dracut = Dracut(tmp_path)
    if there:
        (dracut.module.parent / "35network-legacy").mkdir()
        (dracut.module.parent / "40network").mkdir()
    made = plan()
    made.wipe[0] = volume(device="10.9.0.1:/srv", type="nfs4", options=["addr=10.9.0.1"])
    dracut.apply(made.dump())
    built = dracut.build()
    assert "complete" in built.lines
    assert ("depends network" in built.lines) == there
    complaint = "depends error ephemeroot: dracut's module network is not installed"
    assert any(line.startswith(complaint) for line in built.lines) != there


def test_requests_nothing_without_a_network_volume(tmp_path: Path) -> None:
    dracut = Dracut(tmp_path)
    assert not [line for line in dracut.build().lines if line.startswith("depends")]
    dracut.apply(plan().dump())
    assert not [line for line in dracut.build().lines if line.startswith("depends")]
