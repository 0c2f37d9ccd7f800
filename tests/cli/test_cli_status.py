"""``ephemeroot status`` after boots with the real stages, on a real btrfs."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import proof
from ephemeroot.cli.status import collect
from ephemeroot.status import unapplied
from image_archives import archive, file
from living_machine import LivingMachine, living_machine
from machine_tree import MAIN, SOUND, MachineTree

pytestmark = pytest.mark.requires_loop


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[LivingMachine]:
    with living_machine(tmp_path) as made:
        yield made


def status(machine: LivingMachine, code: int = 0) -> Any:
    done = machine.call("status", "--json")
    assert done.returncode == code, (done.stdout, done.stderr)
    content = json.loads(done.stdout)
    assert (content["format"], content["version"]) == ("ephemeroot-status", 1)
    return content


def test_status_of_an_ephemeral_root(machine: LivingMachine) -> None:
    (machine.disk.top / "base/var/log/of-the-base").touch()
    (machine.disk.top / "base/srv/data/kept").mkdir(parents=True)
    (machine.disk.top / "base/srv/data/kept/seed").touch()
    (machine.disk.top / "store/etc").mkdir()
    (machine.disk.top / "store/etc/passwd").write_text("root:x:0:0:me:/root:/bin/sh\n")
    machine.boot_by_the_stages()
    (machine.root / "etc/x").touch()
    assert machine.boot_by_the_stages() == [0, 0]
    content = status(machine)
    assert content["root"] == "ephemeral"
    facts = content["wiped"]["/"]
    assert facts["wiper"] == "btrfs"
    assert facts["retired"] in facts["kept"]
    assert content["generation"] == {"booted": 1, "applied": 1}
    assert {name: len(lines) for name, lines in content["outcomes"].items()} == {
        "bound": 2, "copied": 2, "linked": 1, "hiding": 2,
    }  # fmt: skip
    (store,) = content["stores"]
    assert (store["path"], store["state"]) == ("/persistent", "ok")
    assert 0 < store["free"] < store["size"]
    assert content["next-boot"] == [machine.plan().wipe[2].describe()]
    assert content["complaints"] == content["unknown"] == []
    shown = machine.call("status").stdout
    lines = shown.splitlines()
    assert lines[0] == "this root is new: this boot made it"
    assert f"the previous root is old root {facts['retired']}" in shown
    assert any(line.startswith("  wipe     wiped in ") for line in lines), shown
    assert "  paths    2 bound, 2 copied, 1 linked" in lines
    assert "/var/log hides 1 entry of the root, but is empty in /persistent" in shown
    assert "% full" in shown
    steps = machine.call("status", "--long").stdout
    assert "attach the volume /persistent" in steps
    assert "\x1b[" not in shown + steps


def test_an_ordinary_bind_is_not_reported_as_hiding_files(machine: LivingMachine) -> None:
    (machine.disk.top / "base/var/log/of-the-base").touch()
    (machine.disk.top / "store/var/log/of-the-store").touch()
    machine.boot_by_the_stages()
    assert len(status(machine)["outcomes"]["hiding"]) == 1
    assert status(machine)["hidden"] == []
    assert "hid" not in machine.call("status").stdout
    (machine.disk.top / "store/var/log/of-the-store").unlink()
    (line,) = status(machine)["hidden"]
    assert line.startswith("/var/log hides ")


def fill(path: Path, leave: int) -> None:
    """Write to the file *path* until at most *leave* bytes are free."""
    with open(path, "wb", buffering=0) as file:
        while (free := os.statvfs(path.parent)).f_bavail * free.f_frsize > leave:
            try:
                file.write(os.urandom(1 << 20))
                os.fsync(file.fileno())
            except OSError:
                break


@pytest.mark.parametrize("where", ["an old root", "the store", "this root"])
def test_reports_a_full_disk_and_the_largest_old_root(machine: LivingMachine, where: str) -> None:
    (machine.disk.top / "store/srv/data/kept").mkdir(parents=True)
    machine.boot_by_the_stages()
    if where == "an old root":
        fill(machine.root / "etc/huge", 8 << 20)
        machine.boot_by_the_stages()
        expected = "1 old root of /"
    elif where == "the store":
        fill(machine.disk.top / "store/srv/data/kept/huge", 8 << 20)
        expected = "/persistent/srv/data/kept"
    else:
        fill(machine.root / "var/huge", 8 << 20)
        expected = "files of this root that do not persist, the largest /var/huge"
    machine.disk.sync()
    content = status(machine, 10)
    (full,) = content["full"]
    assert full["paths"] == ["/", "/persistent"]
    assert full["holders"][0]["name"] == expected
    assert full["holders"][0]["size"] > full["size"] / 2
    (line,) = [one for one in content["complaints"] if "is nearly full" in one]
    assert line.startswith("the filesystem of / and /persistent is nearly full: ")
    assert f"largest: {expected} (" in line
    shown = machine.call("status").stdout
    assert line in shown.partition("problems (each makes status exit with 10)\n")[2]


PATHS = ("/srv/a", "/srv/b", "/var/lib/app", "/opt/tool", "/etc/app")


@pytest.mark.parametrize(
    ("before", "after"),
    proof.sample(
        [
            (frozenset(one), frozenset(other))
            for size in range(4)
            for one in itertools.combinations(PATHS, size)
            for other in itertools.combinations(PATHS, 2)
        ],
        6,
    ),
)
def test_names_paths_that_are_declared_but_not_applied(
    tmp_path: Path, before: frozenset[str], after: frozenset[str]
) -> None:
    def configuration(paths: frozenset[str]) -> str:
        listed = ", ".join(f'"{path}"' for path in ["/var/log", *sorted(paths)])
        return SOUND.replace('directories = ["/var/log"]', f"directories = [{listed}]")

    tree = MachineTree(tmp_path, configuration(before))
    plan = tree.plan()
    assert unapplied.look(tree.path, plan).lines() == []
    tree.write(MAIN, configuration(after))
    adopted = min(after)
    tree.write(f"persistent{adopted}/content", "x")
    found = unapplied.look(tree.path, plan)
    assert set(found.added) == after - before
    assert set(found.removed) == before - after
    assert set(found.stored) == {adopted} - before
    assert len(found.lines()) == len(before ^ after)
    assert len(found.complaints) == len(after - before)
    assert all("is declared but not applied" in line for line in found.complaints)
    tree.write(MAIN, configuration(after).replace("/srv", "srv"))
    if any(path.startswith("/srv") for path in after):
        assert "run 'ephemeroot check'" in unapplied.look(tree.path, plan).lines()[0]
    tree.write(MAIN, configuration(before).replace('"root-base"', '"another-base"'))
    (line,) = unapplied.look(tree.path, plan).lines()
    assert "the configuration was changed but not applied" in line
    (tree.path / MAIN).unlink()
    assert unapplied.look(tree.path, plan).lines() == []


def test_names_seeded_paths(machine: LivingMachine) -> None:
    (machine.disk.top / "base/srv/data/kept").mkdir(parents=True)
    (machine.disk.top / "base/srv/data/kept/seed").touch()
    machine.boot_by_the_stages()
    (line,) = [li for li in status(machine)["outcomes"]["seeded"] if "/srv/data/kept" in li]
    assert "seeded" in line
    assert "seeded into the stores" in machine.call("status").stdout
    hidden = status(machine)["outcomes"].get("hiding", [])
    assert not any("/srv/data/kept" in li for li in hidden), "it hides what it was made of"
    machine.boot_by_the_stages()
    hidden = status(machine)["outcomes"]["hiding"]
    assert any("/srv/data/kept" in li and "hiding 1 entry" in li for li in hidden)


@pytest.mark.parametrize(
    ("words", "state", "reason"),
    [
        ("ephemeroot.wipe=no", "kept", "ephemeroot.wipe=no"),
        ("ephemeroot=no", "none", "nothing done: ephemeroot=no"),
    ],
)
def test_reports_a_boot_that_kept_the_root(
    machine: LivingMachine, words: str, state: str, reason: str
) -> None:
    machine.boot_by_the_stages()
    machine.boot_by_the_stages(words)
    content = status(machine, 0 if state == "kept" else 10)
    assert (content["root"], content["reason"]) == (state, reason)
    assert reason in machine.call("status").stdout.splitlines()[0]


def test_reports_a_refused_wipe(machine: LivingMachine) -> None:
    machine.boot_by_the_stages()
    (machine.disk.top / "base/sbin/init").unlink()
    assert machine.boot_by_the_stages()[0] == 10
    content = status(machine, 10)
    assert content["root"] == "kept"
    assert any("wipe failed" in line for line in content["complaints"])
    shown = machine.call("status").stdout
    assert "failures of this boot" in shown


def test_reports_a_boot_without_ephemeroot(machine: LivingMachine) -> None:
    machine.boot()
    content = status(machine, 10)
    assert content["root"] == "none"
    assert "wrote no report" in content["reason"]
    assert content["stages"] == {}


def test_ignores_the_report_of_another_boot(machine: LivingMachine) -> None:
    machine.boot_by_the_stages()
    report = machine.root / "run/ephemeroot/boot.json"
    text = report.read_text()
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    report.write_text(text.replace(boot_id, "0" * 36))
    assert "belongs to another boot" in status(machine, 10)["reason"]
    report.write_text(text.replace('"version": 1', '"version": 99'))
    done = machine.call("status")
    assert done.returncode == 1
    assert "this program supports version 1" in done.stderr
    report.write_text("{")
    assert "is damaged" in machine.call("status").stderr


def test_describes_the_next_boot(machine: LivingMachine) -> None:
    machine.boot_by_the_stages()
    assert machine.call("next-boot", "keep").returncode == 0
    assert status(machine)["next-boot"] == [
        "requested: keep the root as it is ('ephemeroot next-boot')"
    ]
    machine.call("next-boot", "--clear")
    cmdline = machine.root / "etc/kernel/cmdline"
    cmdline.write_text(cmdline.read_text().strip() + " ephemeroot.wipe=no\n")
    lines = status(machine)["next-boot"]
    assert lines[0].endswith("/etc/kernel/cmdline has ephemeroot.wipe=no")
    assert lines[1] == "the root is kept"


def test_damage_in_one_file_hides_nothing_else(machine: LivingMachine) -> None:
    machine.boot_by_the_stages()
    assert machine.call("next-boot", "keep").returncode == 0
    request = machine.root / "persistent/.ephemeroot/next-boot"
    request.write_text("{")
    content = status(machine, 10)
    assert content["root"] == "ephemeral"
    assert content["next-boot"] == ["the root is kept, because a request cannot be read"]
    (line,) = content["complaints"]
    assert "next-boot --clear" in line
    shown = machine.call("next-boot")
    assert shown.returncode == 1
    assert "next-boot --clear" in shown.stderr
    assert machine.call("next-boot", "--clear").returncode == 0
    (machine.root / "etc/ephemeroot/plan.json").write_text("{")
    content = status(machine, 10)
    assert content["root"] == "ephemeral"
    assert any("ephemeroot apply" in line for line in content["complaints"])


def test_an_image_older_than_the_applied_plan(machine: LivingMachine) -> None:
    machine.boot_by_the_stages()
    plan = machine.plan()
    image = machine.root / "boot/initrd.img-6.1.0"
    (machine.root / "lib/modules/6.1.0").mkdir(parents=True)
    (machine.root / "lib/modules/6.1.0/modules.dep").touch()
    image.parent.mkdir()
    image.write_bytes(archive({"usr/lib/ephemeroot/plan.json": file(plan.dump())}))
    assert status(machine)["images"] == []
    plan.generation = 2
    (machine.root / "etc/ephemeroot/plan.json").write_bytes(plan.dump())
    content = status(machine, 10)
    (line,) = content["images"]
    assert line in content["complaints"]
    assert "is of generation 1, generation 2 is applied: it does not wipe" in line
    assert "an older image does not wipe" in content["next-boot"][-1]
    assert line in machine.call("status").stdout


def test_names_newer_and_different_stores(machine: LivingMachine) -> None:
    machine.boot_by_the_stages()
    plan = machine.plan()
    plan.generation = 2
    (machine.root / "etc/ephemeroot/plan.json").write_bytes(plan.dump())
    assert status(machine)["generation"] == {"booted": 1, "applied": 2}
    assert "generation 2 has been applied since" in machine.call("status").stdout
    subprocess.run(["umount", machine.root / "persistent"], check=True)
    content = status(machine, 10)
    assert "check that its volume is mounted" in content["stores"][0]["state"]
    (machine.root / "etc/ephemeroot/plan.json").unlink()
    content = status(machine)
    assert content["next-boot"] == ["no plan is applied: the boot changes nothing"]


def test_an_ordinary_user_sees_readable_facts_and_the_names_of_the_others(
    machine: LivingMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that cannot be read are named."""
    machine.boot_by_the_stages()
    os.chmod(machine.root / "etc/ephemeroot/plan.json", 0o600)
    # Only root can search the directories above, and perhaps the checkout: start in the directory,
    # with all modules imported.
    monkeypatch.chdir(machine.root)
    assert collect(".").to_json()["unknown"] == []
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            os.write(theirs, json.dumps(collect(".").to_json()).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        content = json.loads(pipe.read())
    os.waitpid(child, 0)
    assert content["root"] == "ephemeral"
    assert content["wiped"]["/"]["wiper"] == "btrfs"
    assert content["unknown"] == ["the applied plan"]


def test_says_why_old_roots_are_not_pruned(machine: LivingMachine) -> None:
    machine.boot_by_the_stages()
    machine.boot_by_the_stages()
    record = machine.root / "run/ephemeroot/wiped"
    content = json.loads(record.read_text())
    names = ["2026-11-01T00-00-00Z", "1970-01-01T00-00-10Z.unsynced",
             "1970-01-01T00-00-10Z.2.unsynced", "1970-01-01T00-00-10Z.3.unsynced.keep"]  # fmt: skip
    content["/"]["kept"] = names
    record.write_text(json.dumps(content))
    assert "/: 2 old roots of unknown age" in machine.call("status").stdout
