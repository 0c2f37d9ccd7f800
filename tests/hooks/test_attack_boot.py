"""A user's process exchanges files in the user's directories while a boot works on them.

Both stages run, seeding from the previous root and persistence, with new files in each round. The
attacker (attacker.c) puts fifos, sockets, links, hard links and directories in place of the files
in the previous root, in the store and in the new root.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import attack
import proof
from attack_driver import Attacker, fill
from boot import STORE, Boot, copy, directory, file, parent
from ephemeroot.hooks.cmdline import CommandLine
from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.operations.handover import HandOver
from ephemeroot.hooks.plan import Plan
from ephemeroot.hooks.report import Report
from ephemeroot.hooks.stage import Stage
from ephemeroot.linux import mountinfo

pytestmark = [
    pytest.mark.requires_loop,
    pytest.mark.requires_program("cc"),
    pytest.mark.usefixtures("private_mounts"),
]

EVE = 4242
HOME = "home/eve"
ROUNDS = int(os.environ.get("EPHEMEROOT_ROUNDS", proof.rounds(60, 1000)))
DECLARED = ("d0", "f0", "f1", "made/inner")


class Place:
    """A filesystem with the user's home, and with files of root that must not change."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.secret = top / attack.CANARY
        self.secret.mkdir(mode=0o711)
        (self.secret / "shadow").write_text(f"{attack.SECRET} shadow\n")
        (self.secret / "shadow").chmod(0o600)
        self.home = top / HOME
        self.home.mkdir(parents=True)
        (self.home / ".trap-link").symlink_to(self.secret / "shadow")
        (self.home / ".trap-up").symlink_to(self.secret)
        os.mkfifo(self.home / ".trap-fifo")
        os.mknod(self.home / ".trap-socket", 0o140600)
        os.mknod(self.home / ".trap-null", 0o020600, os.makedev(1, 3))
        (self.home / ".trap-directory").mkdir(mode=0o700)  # root's
        # where the kernel does not protect hard links, a user can make these
        for number in range(2):
            os.link(self.secret / "shadow", self.home / f".trap-hard{number}")
        os.chown(self.home, EVE, EVE)
        self.before = self.look()

    def look(self) -> list[tuple[object, ...]]:
        found: list[tuple[object, ...]] = []
        for path in (self.secret, self.secret / "shadow"):
            status = path.lstat()
            found.append((status.st_ino, status.st_mode, status.st_uid, status.st_gid))
        return [*found, (sorted(os.listdir(self.secret)), (self.secret / "shadow").read_text())]

    def readable(self) -> list[str]:
        """Files with the secret that the user can read."""
        return [
            str(path) for path in self.top.rglob("*")
            if path.is_file() and not path.is_symlink() and attack.CANARY not in path.parts
            and (path.lstat().st_uid == EVE or path.lstat().st_mode & 0o004)
            and attack.SECRET in path.read_text(errors="replace")
        ]  # fmt: skip


@pytest.fixture(params=["tmpfs", "btrfs"])
def boot(request: pytest.FixtureRequest) -> Iterator[Boot]:
    """Run the boot in a directory that the user can search: pytest's own folders are closed."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "none", "/mnt"], check=True)
    try:
        boot = Boot(Path("/mnt"), request.param, 128)
        yield boot
        boot.unmount()
    finally:
        subprocess.run(["umount", "-R", "-l", "/mnt"], check=True)


def operations() -> list[Operation]:
    return [
        parent("/home"),
        parent(f"/{HOME}", user=EVE, group=EVE, mode=0o755),
        directory(f"/{HOME}/d0", user=EVE, group=EVE),
        file(f"/{HOME}/f0"),
        copy(f"/{HOME}/f1"),
        parent(f"/{HOME}/made", user=EVE, group=EVE, mode=0o777),
        directory(f"/{HOME}/made/inner", user=EVE, group=EVE, mode=0o777),
        directory("/after"),
    ]


def hand_over(boot: Boot, previous: Path) -> None:
    """The wipe stage's part: seed the store from the previous root."""
    plan = Plan(wipe=[], persist=operations(), seed_limit=1 << 20)
    report = Report("wipe", None, "boot", boot=False)
    stage = Stage(
        plan, CommandLine(""), report, target=str(boot.target), run=str(boot.run), boot_id="boot"
    )
    stage.add_store(STORE, os.open(boot.store, os.O_PATH | os.O_DIRECTORY))
    try:
        HandOver(stage, "/", {"/"}, marks_kept=True).run(str(previous), "old", boots=True)
    finally:
        stage.close()


def clear(home: Path) -> None:
    """Remove the declared paths, so that the next round creates them; the attacker is stopped."""
    for name in (*DECLARED, "made"):
        path = home / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif os.path.lexists(path):
            path.unlink()


def detach(boot: Boot) -> None:
    """Undo the persistence stage."""
    subprocess.run(["mount", "--bind", boot.root(STORE), boot.store], check=True)
    libc = ctypes.CDLL(None, use_errno=True)
    points = [m.point for m in mountinfo.mounts() if m.point.startswith(f"{boot.target}/")]
    for point in reversed(points):
        libc.umount2(os.fsencode(point), 2)


def test_a_boot_is_safe_from_a_process_that_exchanges_files(boot: Boot, tmp_path: Path) -> None:
    previous = boot.base / "previous"
    previous.mkdir()
    places = [Place(top) for top in (boot.store, boot.target, previous)]
    program = shutil.copy(attack.build(tmp_path), "/mnt/attacker")
    leaks = Path("/mnt/leaks")
    leaks.touch()
    leaks.chmod(0o666)
    watched = [place.home / name for place in places for name in (".", "d0", "made")]
    attacker = Attacker(
        [program, str(EVE), str(places[0].secret / "shadow"), attack.SECRET, str(leaks),
         *map(str, watched)], 1,
    )  # fmt: skip
    outcomes: set[str] = set()
    try:
        for number in range(ROUNDS):
            attacker.stop()
            for place in places:
                clear(place.home)
            fill(str(places[2].home), EVE, number)
            if number % 2:
                fill(str(places[0].home), EVE, number)
            attacker.signal(18)  # SIGCONT
            hand_over(boot, previous)
            boot.persist(*operations())
            outcomes.update(result.split(":")[0].split(",")[0] for result in boot.results())
            attacker.stop()
            assert boot.root("/after").is_mount(), "a user has stopped the others' paths"
            detach(boot)
            assert [place.look() for place in places] == [place.before for place in places]
            points = [m.point for m in mountinfo.mounts()]
            assert not [point for point in points if attack.CANARY in point]
        exchanges, _ = attacker.end()
    finally:
        try:
            attacker.signal(9)
        except ProcessLookupError:
            pass  # they have ended
    assert exchanges > ROUNDS, "the attacker had no chance: this proves nothing"
    assert "failed" in outcomes, "the attacker never met a stage"
    assert any(word.startswith(("seeded", "bound")) for word in outcomes), outcomes
    assert leaks.read_text() == ""
    assert [place.readable() for place in places] == [[], [], []]
    proof.record("round with an attacker: boot", ROUNDS)
