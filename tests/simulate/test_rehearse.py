"""`ephemeroot rehearse` on real filesystems: its findings, and the removal of all copies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kernel_images
from btrfs_image import Disk, btrfsutil, fresh_disk, loop_device
from ephemeroot import backends, cli
from ephemeroot.backends.btrfs import throwaway
from ephemeroot.config import read
from ephemeroot.linux import mountinfo, mounts
from ephemeroot.machine.root import Root
from ephemeroot.plan.compile import compile_machine
from machine_tree import MAIN, MachineTree

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]

KERNEL = os.uname().release


def btrfs(loop: str) -> str:
    return f"""\
[root]
wiper = "btrfs"
external-boot = true
[root.btrfs]
base = "root-base"
device = "{loop}"
subvolume = "root"
[[volumes]]
mount-point = "/persistent"
device = "{loop}"
type = "btrfs"
options = ["subvol=persistent"]
[persistence."/persistent"]
directories = ["/var/log", "/srv"]
files = ["/etc/machine-id", "/etc/hostname"]
"""


class Living(MachineTree):
    """A running machine: its root and its store are mounted."""

    disk: Disk

    def fill(self) -> None:
        for name, text in {
            "usr/lib/os-release": "ID=test\n",
            "usr/lib/systemd/systemd": "",
            "sbin/init": "#!/bin/sh\n",
            "var/log/syslog": "kept",
            "srv/data": "seeded",
            "etc/fstab": f"{self.disk.loop} / btrfs subvol=root 0 0\n",
        }.items():
            self.write(name, text)
        for name in ("proc", "sys", "dev", "run", "tmp"):
            (self.path / name).mkdir(exist_ok=True)
        (self.path / "sbin/init").chmod(0o755)
        (self.path / "persistent/.ephemeroot-store").unlink()

    def base(self) -> None:
        """Make the base from the present root."""
        btrfsutil.create_snapshot(str(self.disk.top / "root"), str(self.disk.top / "root-base"))

    def everything(self) -> list[tuple[str, int, int]]:
        found = []
        for path in sorted(self.disk.top.rglob("*")):
            status = path.lstat()
            found.append((str(path), status.st_ino, status.st_ctime_ns))
        return found


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Living]:
    with fresh_disk(tmp_path) as disk, disk.mounted_root(tmp_path / "machine") as root:
        disk.mount("persistent", root / "persistent")
        tree = Living(root, btrfs(disk.loop))
        tree.disk = disk
        tree.fill()
        yield tree


def rehearse(
    machine: MachineTree, capsys: pytest.CaptureFixture[str], code: int = 0
) -> dict[str, Any]:
    got = cli.main(["rehearse", "--json", "--root", str(machine.path)])
    printed = capsys.readouterr()
    assert got == code, printed
    document: dict[str, Any] = json.loads(printed.out)
    assert document["would-boot"] == (code == 0)
    return document


def points() -> list[str]:
    return sorted(mount.point for mount in mountinfo.mounts())


def texts(document: dict[str, Any], *severities: str) -> list[str]:
    wanted = severities or ("error", "warning")
    return [one["text"] for one in document["findings"] if one["severity"] in wanted]


def test_a_boot_is_simulated_and_removed(
    machine: Living, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    machine.base()
    before = machine.everything()
    mounts = points()
    document = rehearse(machine, capsys)
    assert texts(document) == []
    done = [(one["line"], one["result"]) for one in document["operations"]]
    rotation = next(result for line, result in done if line.startswith("rotate /"))
    assert rotation.startswith("retired ")
    assert any("/srv" in line and "seeded" in result for line, result in done)
    assert any("/var/log" in line and "bound" in result for line, result in done)
    assert machine.everything() == before, "nothing was changed, not even for a moment's time"
    assert points() == mounts
    assert not [n for n in os.listdir(machine.disk.top) if n.startswith(".")]
    assert not (machine.path / "persistent/srv").exists()
    assert cli.main(["rehearse", "--root", str(machine.path)]) == 0
    assert "all copies removed" in capsys.readouterr().out


def test_finds_files_that_would_be_missing(
    machine: Living, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.write("usr/lib/systemd/system/app.service", "[Service]\nStateDirectory=app\nUser=app\n")
    machine.write("etc/systemd/system/multi-user.target.wants/app.service", "")
    machine.write("var/lib/app/old", "in the base")
    machine.write("etc/cups/printers.conf", "as installed")
    machine.write("usr/lib/systemd/system/cups.service", "[Service]\n")
    machine.base()
    machine.write("var/lib/app/new", "made since")
    machine.write("etc/systemd/system/multi-user.target.wants/later.service", "")
    machine.write("usr/lib/systemd/system/later.service", "[Service]\n")
    machine.write("etc/cups/printers.conf", "one that was set up since")
    os.chown(machine.path / "srv", 4711, 0)
    root = machine.disk.top / "root-base"
    (root / "etc/fstab").write_text(
        f"{machine.disk.loop} / btrfs subvol=root 0 0\n"
        "UUID=00000000-dead-beef-0000-000000000000 /data ext4 defaults 0 2\n"
        "UUID=00000000-dead-beef-0000-000000000000 /more ext4 nofail 0 2\n"
        f"{machine.disk.loop} /sub btrfs subvol=gone 0 0\n"
        "/nowhere /srv2 none bind 0 0\n"
        "/swapfile none swap sw 0 0\n"
    )
    (root / "etc/crypttab").write_text("data UUID=1234 /etc/keys/data.key luks\n")
    document = rehearse(machine, capsys, 1)
    errors, warnings = texts(document, "error"), texts(document, "warning")
    missing = "line 2: cannot mount /data: the device UUID=00000000-dead"
    assert any(missing in e and "emergency mode" in e for e in errors)
    assert any("line 3: cannot mount /more" in w for w in warnings)
    assert any("line 4: cannot mount /sub" in e for e in errors)
    missing = "line 5: cannot mount /srv2: /nowhere does not exist in the fresh root"
    assert any(missing in e for e in errors)
    assert any("swap file /swapfile" in w for w in warnings)
    assert any("/etc/keys/data.key" in w for w in warnings)
    assert any("app.service keeps its state in /var/lib/app" in w for w in warnings)
    assert any("app.service runs as app" in w for w in warnings)
    assert any(w.startswith("later.service is enabled on this root") for w in warnings)
    assert any("/srv belongs to the user 4711" in w for w in warnings)
    assert any(n.startswith("/etc/cups does not persist") for n in texts(document, "note"))


def test_reports_a_base_that_cannot_boot(
    machine: Living, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.base()
    (machine.disk.top / "root-base/sbin/init").unlink()
    (machine.disk.top / "root-base/usr/lib/systemd/systemd").unlink()
    document = rehearse(machine, capsys, 1)
    assert any("the wipe stage would fail" in text and "init" in text for text in texts(document))
    (machine.disk.top / "root-base/usr/lib/os-release").unlink()
    document = rehearse(machine, capsys, 1)
    assert any("os-release" in text for text in texts(document))


def test_refuses_content_that_every_new_root_would_contain(
    machine: Living, capsys: pytest.CaptureFixture[str]
) -> None:
    modules = f"usr/lib/modules/{KERNEL}"
    machine.write(f"{modules}/modules.dep", "kernel/fs/btrfs/btrfs.ko:\n")
    root = f"{machine.disk.loop} / btrfs subvol=root 0 0\n"
    machine.write("etc/fstab", f"{root}/sw none swap s 0 0\n")
    machine.write(".autorelabel", "")
    (machine.path / "sw").write_bytes(b"\0" * 4086 + b"SWAPSPACE2")
    btrfsutil.create_subvolume(str(machine.path / "opt"))
    machine.write("opt/program", "x")
    machine.base()
    built = "kernel/fs/btrfs/btrfs.ko:\nupdates/dkms/gpu.ko.zst:\n"
    machine.write(f"{modules}/modules.dep", built)
    errors = texts(rehearse(machine, capsys, 1), "error")
    for said in (
        "/.autorelabel would be in every new root",
        "the swap file /sw would be in every",
        "/opt is a nested subvolume of the root",
        f"for the kernel {KERNEL}: gpu",
    ):
        assert [said in text for text in errors].count(True) == 1, (said, errors)
    # For a base that has all of it itself, the subvolumes of the root do not matter.
    machine.disk.sync()
    base = machine.disk.top / "root-base"
    (base / ".autorelabel").unlink()
    (base / "sw").unlink()
    (base / "opt").rmdir()
    (base / "opt").mkdir()
    (base / "opt/program").write_text("x")
    (base / f"{modules}/modules.dep").write_text(built)
    document = rehearse(machine, capsys)
    assert texts(document, "error") == []
    warnings = texts(document, "warning")
    assert [text for text in warnings if "/sw does not exist in the fresh root" not in text] == []


@pytest.mark.parametrize("closed", ["/persistent", "/persistent/var", "/var"])
@pytest.mark.parametrize("method", ["bind", "symlink"])
def test_warns_of_a_directory_that_keeps_a_user_from_its_path(
    machine: Living, capsys: pytest.CaptureFixture[str], method: str, closed: str
) -> None:
    machine.write("etc/group", "root:x:0:\nsvc:x:120:\n")
    machine.write("etc/passwd", "root:x:0:0::/root:/bin/sh\nsvc:x:120:120::/:/bin/sh\n")
    entry = f'{{ directory = "/var/svc", user = "svc", group = "svc", method = "{method}" }}'
    file = machine.path / "etc/ephemeroot/ephemeroot.toml"
    file.write_text(file.read_text().replace("directories = [", f"directories = [{entry}, ", 1))
    for place in (machine.path / "var", machine.path / "persistent/var"):
        place.mkdir(exist_ok=True)
    (machine.path / closed[1:]).chmod(0o700)
    machine.base()
    warned = [text for text in texts(rehearse(machine, capsys), "warning") if "/var/svc" in text]
    # The root's directory gets the mode of the store's.
    reached = closed == "/var" or (method == "bind" and closed == "/persistent")
    assert bool(warned) != reached, warned


def test_warns_of_each_kernel_that_would_find_no_modules(
    machine: Living, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.write(f"usr/lib/modules/{KERNEL}/modules.dep", "kernel/fs/btrfs/btrfs.ko:\n")
    for name, release in {"vmlinuz-linux": "9.9.1-a", "efi/EFI/Linux/os.efi": "9.9.2-b"}.items():
        machine.write(f"boot/{name}", "")
        kind = "unified" if name.endswith(".efi") else "bzimage"
        (machine.path / "boot" / name).write_bytes(kernel_images.FORMATS[kind](release))
    machine.write("boot/vmlinuz-odd", "")
    (machine.path / "boot/vmlinuz-odd").write_bytes(b"\xa5" * 0x10000)
    machine.base()
    warnings = texts(rehearse(machine, capsys), "warning")
    for said in ("no modules for the kernel 9.9.1-a", "no modules for the kernel 9.9.2-b",
                 "cannot read the kernel release of /boot/vmlinuz-odd"):  # fmt: skip
        assert [said in text for text in warnings].count(True) == 1, (said, warnings)


def test_requires_modules_of_this_kernel(
    machine: Living, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.write("usr/lib/modules/1.2.3-other/modules.dep", "")
    machine.base()
    document = rehearse(machine, capsys, 1)
    assert any(KERNEL in text for text in texts(document, "error")), document


def test_reports_a_missing_base(machine: Living, capsys: pytest.CaptureFixture[str]) -> None:
    document = rehearse(machine, capsys, 1)
    assert any("'root-base' cannot be opened" in text for text in texts(document, "error"))
    assert not [n for n in os.listdir(machine.disk.top) if n.startswith(".")]


def test_does_not_wipe_the_live_root_and_store(
    machine: Living, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the configuration says, the plan that is rehearsed names only the copies."""
    machine.base()
    private = machine.path.parent / "away"
    planned = compile_machine(read(machine.machine), machine.machine).plan.root_wipe()
    assert planned is not None
    backend = backends.of(planned.load())
    place = Root(machine.disk.loop, "root", None, ())
    rehearsal = backend.rehearsal(planned, place, machine.path, [])
    wipe = rehearsal.prepare(str(private))
    assert wipe.subvolume is not None
    folder, _, name = wipe.subvolume.partition("/")
    assert folder.startswith(throwaway.PREFIX)
    assert name == "root"
    for key in ("base", "old-roots", "old-bases"):
        assert str(wipe.settings[key]).startswith(f"{folder}/")
    mounts.detach(f"{private}/top")
    assert rehearsal.tidy(str(private)) == []
    assert not [n for n in os.listdir(machine.disk.top) if n.startswith(".")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("delay", [0.15, 0.3, 0.45, 0.6])
def test_an_interruption_leaves_nothing_behind(machine: Living, number: int, delay: float) -> None:
    machine.base()
    machine.write("srv/large", "x" * 3_000_000)
    before = points()
    code = "import sys; from ephemeroot.cli import main; sys.exit(main(sys.argv[1:]))"
    with subprocess.Popen(
        [sys.executable, "-P", "-c", code, "rehearse", "--root", machine.path],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    ) as process:  # fmt: skip
        time.sleep(delay)
        process.send_signal(number)
        process.communicate()  # until all of its processes have ended
    assert [n for n in os.listdir(machine.disk.top) if n.startswith(".")] == []
    assert points() == before
    assert (machine.path / "srv/data").read_text() == "seeded"
    assert not (machine.path / "persistent/srv").exists()


KILL = """
import os, signal, sys
from ephemeroot.backends.btrfs import rehearsal, throwaway
from ephemeroot.cli import main, rehearse
first = os.getpid()

def killing(module, name, after):
    original = getattr(module, name)
    def call(*arguments, **named):
        if not after:
            kill()
        result = original(*arguments, **named)
        if after:
            kill()
        return result
    setattr(module, name, call)

def kill():
    if os.getpid() != first:
        os.kill(first if WHO == "waits" else os.getpid(), signal.SIGKILL)

killing(*{
    "the top level is mounted": (rehearsal, "Toplevel", True),
    "the directory is made": (os, "mkdir", True),
    "its first snapshot is made": (throwaway.Throwaway, "snapshot", True),
    "all is played": (rehearse, "_tidy", False),
    "subvolumes are removed": (throwaway, "_empty", True),
}[POINT])
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("who", ["waits", "plays"])
@pytest.mark.parametrize("point", [
    "the top level is mounted", "the directory is made", "its first snapshot is made",
    "all is played", "subvolumes are removed",
])  # fmt: skip
def test_the_surviving_process_cleans_up(machine: Living, point: str, who: str) -> None:
    """Either of the two processes is killed, at any moment."""
    machine.base()
    before, mounts = machine.everything(), points()
    code = f"POINT, WHO = {point!r}, {who!r}\n{KILL}"
    ended = subprocess.run(
        [sys.executable, "-P", "-c", code, "rehearse", "--root", machine.path],
        capture_output=True, start_new_session=True,
    )  # fmt: skip
    # The results so far are known: only cleaning up remained.
    known = who == "plays" and point in ("all is played", "subvolumes are removed")
    assert ended.returncode == (-signal.SIGKILL if who == "waits" else 0 if known else 1), ended
    # Both processes have ended, so the content no longer changes.
    assert [n for n in os.listdir(machine.disk.top) if n.startswith(".")] == [], ended
    assert machine.everything() == before
    assert points() == mounts


def test_removes_only_leftovers(machine: Living, capsys: pytest.CaptureFixture[str]) -> None:
    machine.base()
    top = machine.disk.top
    left = top / f"{throwaway.PREFIX}0123456789ab"
    left.mkdir(mode=0o700)
    btrfsutil.create_snapshot(str(top / "root"), str(left / "root"))
    (left / "old_roots").mkdir()
    btrfsutil.create_snapshot(str(top / "root"), str(left / "old_roots/x"), read_only=True)
    btrfsutil.create_subvolume(str(left / "root/inner"))
    somebodys = top / f"{throwaway.PREFIX}somebodys"
    somebodys.mkdir(mode=0o755)
    (somebodys / "file").write_text("mine")
    subvolume = top / f"{throwaway.PREFIX}subvolume"
    btrfsutil.create_subvolume(str(subvolume))
    os.chmod(subvolume, 0o700)
    rehearse(machine, capsys)
    assert not left.exists()
    assert (somebodys / "file").read_text() == "mine"
    assert subvolume.exists()


def test_rehearses_a_root_in_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with loop_device(tmp_path / "image", 64) as loop:
        subprocess.run(["mkfs.ext4", "-q", loop], check=True)
        root = tmp_path / "machine"
        machine = MachineTree(root, f"""\
[root]
wiper = "tmpfs"
[[volumes]]
mount-point = "/usr"
device = "{loop}"
type = "ext4"
options = ["ro"]
[[volumes]]
mount-point = "/data"
device = "{loop}"
type = "ext4"
[persistence."/data/store"]
directories = ["/etc", "/var"]
""")  # fmt: skip
        where = root / "data"
        where.mkdir()
        subprocess.run(["mount", loop, where], check=True)
        for name, text in {
            "lib/os-release": "ID=test\n", "lib/systemd/systemd": "", "store/etc/fstab": "",
            "store/etc/passwd": "root:x:0:0::/root:/bin/sh\n", "store/etc/group": "root:x:0:\n",
        }.items():  # fmt: skip
            machine.write(f"data/{name}", text)
        (where / "lib/systemd/systemd").chmod(0o755)
        document = rehearse(machine, capsys)
        assert texts(document, "error") == []
        assert any(o["line"].startswith("make / a fresh tmpfs") for o in document["operations"])
        assert sorted(os.listdir(where / "store")) == ["etc"]
        subprocess.run(["umount", where], check=True)


def test_rehearses_an_overlay_over_the_installed_root(
    machine: Living, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.write(MAIN, (machine.path / MAIN).read_text().replace('wiper = "btrfs"', (
        'wiper = "overlay"')).replace("[root.btrfs]", "[root.overlay]").replace(
        'base = "root-base"', 'type = "btrfs"'))  # fmt: skip
    before = machine.everything()
    document = rehearse(machine, capsys)
    assert texts(document, "error") == []
    assert any("overlay" in o["line"] for o in document["operations"])
    assert machine.everything() == before


def test_reports_a_wiper_that_cannot_be_rehearsed(
    machine: Living, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ephemeroot.wipers.tmpfs import Tmpfs

    class Other(Tmpfs):
        __slots__ = ()

    monkeypatch.setattr("ephemeroot.hooks.operations.wipe.Wipe.load", lambda self: Other({}))
    machine.base()
    assert cli.main(["rehearse", "--root", str(machine.path)]) == 1
    assert "cannot be rehearsed" in capsys.readouterr().err
