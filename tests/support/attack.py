"""Which verbs the attacker attacks, in which directories, and the forbidden effects.

Each verb that writes (its case in `verb_cases` has changes) is in `ATTACKS`, or in `ELSEWHERE` with
the reason why it writes to no directory of a user.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkout import CHECKOUT
from verb_cases import CASES
from verb_machine import HOME, NEWEST, USER, VerbMachine, sh

SECRET = "the-secret-of-root"
STORE = "/persistent"
CANARY = "root-only"
TOP = "eve"
_AT_ONCE = 5

RECORDS = f"{STORE}/.ephemeroot"
PLAN = "/etc/ephemeroot/plan.json"


@dataclass(frozen=True)
class Attack:
    """``argvs`` are the program's arguments, one after the other in each round. ``directories``
    belong to the user; the attacker works in them. ``share`` is the share of the rounds: verbs that
    take long get few. See `attack_driver` for the rest.
    """

    verb: str
    argvs: tuple[tuple[str, ...], ...]
    directories: tuple[str, ...]
    prepare: Callable[[VerbMachine], None]
    booted: bool = True
    remove: tuple[str, ...] = ()
    unmount: tuple[str, ...] = ()
    fill: tuple[str, ...] = ()
    restore: tuple[tuple[str, str], ...] = ()
    share: float = 1.0

    @property
    def id(self) -> str:
        """The verb without spaces."""
        return self.verb.replace(" ", "-")


def have(machine: VerbMachine, path: str, *, traps: bool = True) -> Path:
    """Create a directory of the user with traps in it, in the running machine."""
    place = machine.inside(path)
    place.mkdir(parents=True, exist_ok=True)
    os.chown(place, USER, USER)
    if traps:
        set_traps(machine, place)
    return place


def set_traps(machine: VerbMachine, place: Path) -> None:
    """Files that root may have in a directory of a user, however they came there."""
    canary = canary_of(machine, place)
    (place / ".trap-link").symlink_to(f"/{CANARY}/shadow")
    (place / ".trap-up").symlink_to(f"/{CANARY}")
    (place / ".trap-proc").symlink_to(f"/proc/self/root/{CANARY}/shadow")
    os.mkfifo(place / ".trap-fifo", 0o600)
    os.mknod(place / ".trap-socket", 0o140600)
    os.mknod(place / ".trap-null", 0o020600, os.makedev(1, 3))
    (place / ".trap-mine").write_text("the user's own\n")
    (place / ".trap-directory").mkdir()
    for name in (".trap-mine", ".trap-directory"):
        os.chown(place / name, USER, USER)
    # Where the kernel does not protect hard links, the user can make these; here root makes them.
    for number, name in enumerate(("shadow", "run")):
        os.link(canary / name, place / f".trap-hard{number}")


def canary_of(machine: VerbMachine, place: Path) -> Path:
    """Files of root on the same subvolume as *place*, which no verb may change."""
    device = place.stat().st_dev
    for top in ("/", STORE):
        path = machine.inside(top)
        if path.stat().st_dev == device:
            canary = path / CANARY
            break
    else:
        raise AssertionError(f"{place} is on neither the root nor the store")
    if not canary.exists():
        (canary / "inner").mkdir(parents=True, mode=0o700)
        for name, mode in (("shadow", 0o600), ("run", 0o700), ("inner/key", 0o400)):
            (canary / name).write_text(f"{SECRET} {name}\n")
            (canary / name).chmod(mode)
        canary.chmod(0o711)  # the user may search it
    return canary


def canaries(machine: VerbMachine) -> dict[str, tuple[object, ...]]:
    """All properties of the files that belong to root."""
    found: dict[str, tuple[object, ...]] = {}
    for top in ("/", STORE):
        canary = machine.inside(top) / CANARY
        if not canary.exists():
            continue
        for path in (canary, *sorted(canary.rglob("*"))):
            status = path.lstat()
            content = path.read_bytes() if path.is_file() else b""
            found[f"{top} {path.relative_to(canary)}"] = (
                status.st_mode, status.st_uid, status.st_gid, status.st_ino,
                status.st_size, status.st_mtime_ns, hashlib.sha256(content).hexdigest(),
                tuple(os.listxattr(path)),
            )  # fmt: skip
    return found


def links(machine: VerbMachine) -> dict[str, tuple[int, int]]:
    """The number of names of each file of root, and its last change.

    This is separate from `canaries`, because the user may remove names in the user's directories.
    """
    found = {}
    for top in ("/", STORE):
        path = machine.inside(top) / CANARY / "inner/key"
        if path.exists():
            found[top] = (path.stat().st_nlink, path.stat().st_ctime_ns)
    return found


def attack(machine: VerbMachine, one: Attack, program: Path, rounds: int) -> dict[str, Any]:
    """Let the attacker work for *rounds* rounds; return the result of `attack_driver`.
    ``undisturbed`` are the exit codes of one more round for each of the program's arguments, while
    the attacker is stopped.
    """
    shutil.copy(program, machine.inside("/tmp/attacker"))
    leaks = machine.inside("/tmp/leaks")
    leaks.touch()
    leaks.chmod(0o666)
    command = ["/tmp/attacker", str(USER), f"/{CANARY}/shadow", SECRET, "/tmp/leaks"]
    request = {
        "command": [*command, *one.directories], "attackers": 1, "user": USER,
        "argvs": one.argvs, "remove": one.remove, "unmount": one.unmount, "fill": one.fill,
        "restore": one.restore,
    }  # fmt: skip
    total: dict[str, Any] = {"codes": Counter(), "said": "", "exchanges": 0, "meddled": 0}
    # A few rounds at a time, because the time of a program of the machine is limited.
    for start in range(0, rounds, _AT_ONCE):
        answer = _drive(machine, request, min(_AT_ONCE, rounds - start), disturbed=True)
        total["codes"].update(answer["codes"])
        total["said"] += answer["said"]
        for count in ("exchanges", "meddled"):
            total[count] += answer[count]
    answer = _drive(machine, request, len(one.argvs), disturbed=False)
    total["undisturbed"] = answer["codes"]
    total["said"] += answer["said"]
    return {**total, "leaks": leaks.read_text()}


def _drive(
    machine: VerbMachine, request: dict[str, Any], rounds: int, *, disturbed: bool
) -> dict[str, Any]:
    driver = CHECKOUT / "tests/support/attack_driver.py"
    words = json.dumps({**request, "rounds": rounds, "disturbed": disturbed})
    done = machine.run(sys.executable, "-P", str(driver), words)
    assert done.code == 0, f"{done.out}{done.err}"
    answer: dict[str, Any] = json.loads(done.out)
    return answer


def readable_secrets(machine: VerbMachine) -> str:
    """Files with the secret that the user can read, anywhere in the machine."""
    find = ["find", "/", "-xdev", "-type", "f", "-readable", "-size", "-16k"]
    places = ["find", STORE, "-xdev", "-type", "f", "-readable", "-size", "-16k"]
    found = ""
    for words in (find, places):
        done = machine.run(*words, "-exec", "grep", "-ls", SECRET, "{}", "+", user=USER)
        found += done.out
    return found


# The verbs


def _adopt(machine: VerbMachine) -> None:
    have(machine, f"/srv/app/{TOP}")
    for name in ("a", "b"):
        have(machine, f"/srv/app/{TOP}/{name}", traps=False)
    for directory in ("/srv", STORE):
        canary_of(machine, machine.inside(directory))
    keep = machine.inside("/root/conf.d")
    keep.mkdir()


def _restore(machine: VerbMachine) -> None:
    old = machine.top / "old_roots" / NEWEST / HOME[1:] / "work"
    for n in range(3):
        (old / f"d{n}").mkdir(parents=True)
        (old / f"d{n}/inner").write_text("old\n")
        (old / f"f{n}").write_text("old\n")
        os.mkfifo(old / f"p{n}", 0o640)
    for path in (old, *old.rglob("*")):
        os.chown(path, USER, USER, follow_symlinks=False)
    have(machine, HOME)
    have(machine, f"{HOME}/work")


def _declare(machine: VerbMachine) -> None:
    """Persistent directories of a user: one below a directory of root, one below the
    user's home.
    """
    have(machine, f"{HOME}/kept", traps=False)
    machine.must("adopt", f"{HOME}/kept", "--yes")
    machine.must("apply", "--yes", "--no-images")
    # By the names in the store: a hard link cannot cross a bind mount.
    for path in (f"{STORE}/srv/data/{TOP}", f"{STORE}{HOME}/kept"):
        have(machine, path)
    have(machine, HOME)
    canary_of(machine, machine.inside("/srv"))


def _leave(machine: VerbMachine) -> None:
    _declare(machine)
    for path in (PLAN, f"{STORE}{PLAN}"):
        sh("cp", "-a", machine.inside(path), machine.inside(f"/root/{_flat(path)}"))


def _finish(machine: VerbMachine) -> None:
    _declare(machine)
    machine.must("leave", "--yes", "--no-images")
    record = "/.ephemeroot/leaving.json"
    bare = machine.top / "root"
    sh("cp", "-a", bare / record[1:], bare / f"root/{_flat(record)}")
    shutil.rmtree(machine.inside("/run/ephemeroot"))


def _flat(path: str) -> str:
    return path.strip("/").replace("/", "-")


def _diff(machine: VerbMachine) -> None:
    have(machine, HOME)
    have(machine, f"{HOME}/work")


def _copy_back(machine: VerbMachine) -> None:
    for top in ("", STORE):
        have(machine, f"{top}{HOME}/copied")
    record = machine.inside("/run/ephemeroot/copies")
    content = json.loads(record.read_text())
    source = f"{HOME[1:]}/copied/f0"
    content["files"].append({"path": f"/{source}", "store": STORE, "source": source})
    record.write_text(json.dumps(content))


_RECORD = "/.ephemeroot/leaving.json"
_KEPT = tuple(f"{top}{HOME}/kept" for top in ("", STORE))
_DATA = tuple(f"{top}/srv/data/{TOP}" for top in ("", STORE))

ATTACKS = (
    Attack(
        "adopt",
        (("adopt", "/srv/app", "--yes"), ("adopt", "/srv/app", "--yes", "--replace")),
        tuple(f"{top}/srv/app/{TOP}{sub}" for top in ("", STORE) for sub in ("", "/d0", "/a")),
        _adopt,
        remove=(f"{STORE}/srv/app", "/etc/ephemeroot/conf.d", f"{RECORDS}/adopting",
                f"{RECORDS}/replaced"),
        unmount=("/srv/app",),
        fill=(f"/srv/app/{TOP}", f"/srv/app/{TOP}/a"),
        share=0.3,
    ),
    Attack(
        "roots restore",
        (("roots", "restore", "--from", NEWEST, f"{HOME}/work", "--overwrite"),),
        (f"{HOME}/work", f"{HOME}/work/d0", HOME),
        _restore,
        remove=tuple(f"{HOME}/work/{kind}{n}" for kind in "fdp" for n in range(3)),
        share=0.6,
    ),
    Attack(
        "leave",
        (("leave", "--yes", "--no-images"),),
        (*_DATA, *_KEPT, HOME),
        _leave,
        fill=(_DATA[0], _KEPT[0]),
        restore=tuple((f"/root/{_flat(p)}", p) for p in (PLAN, f"{STORE}{PLAN}")),
        share=0.3,
    ),
    Attack(
        "leave",
        (("leave", "--finish"),),
        (*_DATA, *_KEPT, HOME),
        _finish,
        booted=False,
        fill=(_DATA[1], _KEPT[1]),
        restore=((f"/root/{_flat(_RECORD)}", _RECORD),),
        remove=("/.ephemeroot/leaving-failed.json",),
        share=0.3,
    ),
    Attack(
        "copyback",
        (("copyback",),),
        tuple(f"{top}{HOME}/copied" for top in ("", STORE)),
        _copy_back,
        fill=(f"{HOME}/copied",),
        share=1.5,
    ),
    Attack(
        "diff",
        (("diff", "--content"), ("diff", "--against", NEWEST)),
        (HOME, f"{HOME}/work"),
        _diff,
        fill=(f"{HOME}/work",),
        share=0.15,
    ),
    Attack(
        "base run",
        (("base", "run", "--", "true"),),
        (HOME, f"{HOME}/work"),
        _diff,
        fill=(f"{HOME}/work",),
        share=0.08,
    ),
)  # fmt: skip

ELSEWHERE = {
    "apply": "writes the plan below /etc/ephemeroot and in the store's records",
    "next-boot": "writes a request into the store's records",
    "base create": "makes a snapshot of the root as a whole",
    "base commit": "writes into a copy of the base, which no user can reach, from the root",
    "base rollback": "renames bases as a whole",
    "upgrade": "is a `base run` of the package manager",
    "install": "is a `base run` of the package manager",
    "remove": "is a `base run` of the package manager",
    "roots keep": "renames an old root as a whole",
    "roots unkeep": "renames an old root as a whole",
    "roots claim": "marks the directory of the old roots, which no user can reach",
    "roots delete": "deletes an old root as a subvolume, which no user can reach",
    "roots prune": "deletes old roots as subvolumes, which no user can reach",
    "boot-complete": "marks the root's own directory",
    "edit": "writes below /etc/ephemeroot",
    "setup": "writes below /usr/lib",
    "home apply": "runs as the user: it can do what that user can",
    "home stop": "runs as the user: it can do what that user can",
    "home enable": "runs as the user: it can do what that user can",
    "home disable": "runs as the user: it can do what that user can",
}


def writing_verbs() -> set[str]:
    """The verbs of the parser that write."""
    return {case.verb for case in CASES if case.changes}


def build(folder: Path) -> Path:
    """Compile the attacker's program."""
    program = folder / "attacker"
    source = CHECKOUT / "tests/support/attacker.c"
    subprocess.run(
        ["cc", "-O2", "-Wall", "-Werror", "-o", program, source], check=True, capture_output=True
    )
    return program
