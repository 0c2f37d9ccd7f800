"""`ephemeroot adopt` on a real btrfs: what it copies, declares and binds, and that being killed at
any moment loses nothing.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import proof
from btrfs_image import btrfsutil, fresh_disk
from ephemeroot import cli
from ephemeroot.adopt import drop_in, underway
from ephemeroot.adopt.adopter import Adopter
from ephemeroot.adopt.drop_in import Declaration
from ephemeroot.config import Machine, read
from ephemeroot.hooks.omission import Omission
from ephemeroot.hooks.store import unseeded
from ephemeroot.linux import paths
from ephemeroot.plan import applied
from machine_tree import MAIN, ROOT, SOUND, STORE, VOLUME, MachineTree

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]

DROP_IN = "etc/ephemeroot/conf.d/adopted.toml"


@pytest.fixture(params=["one btrfs", "two filesystems"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MachineTree]:
    """A machine with its root and store mounted, once on filesystems that share data (reflinks),
    once not.
    """
    with fresh_disk(tmp_path) as disk, disk.mounted_root(tmp_path / "machine") as root:
        store = root / "persistent"
        if request.param == "one btrfs":
            disk.mount("persistent", store)
        else:
            subprocess.run(["mount", "-t", "tmpfs", "none", store], check=True)
        tree = MachineTree(root)
        tree.write("srv/app/deep/file", "content " * 9000)
        tree.write('srv/app/odd \n"name\\', "odd")
        (root / "srv/app/link").symlink_to("/etc/passwd")
        (root / "srv/app/same").hardlink_to(root / "srv/app/deep/file")
        os.chown(root / "srv/app/deep", 1000, 1001)
        (root / "srv/app/deep").chmod(0o750)
        os.setxattr(root / "srv/app/deep/file", "user.note", b"kept")
        (root / "srv").chmod(0o711)
        yield tree


def adopt(machine: MachineTree, *words: str) -> int:
    return cli.main(["adopt", "--root", str(machine.path), *words])


def shape(top: Path) -> dict[str, tuple[Any, ...]]:
    """Everything that a copy must preserve."""
    found = {}
    for path in [top, *sorted(top.rglob("*"))]:
        status = path.lstat()
        what: Any = None
        if path.is_symlink():
            what = os.readlink(path)
        elif path.is_file():
            what = path.read_bytes(), os.listxattr(path)
        found[str(path.relative_to(top))] = (
            status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, what,
        )  # fmt: skip
    return found


def declared(machine: MachineTree) -> list[str]:
    return [d.path for d in machine.examination().declared]


def records(machine: MachineTree) -> list[str]:
    folder = machine.path / "persistent/.ephemeroot/adopting"
    return sorted(os.listdir(folder)) if folder.exists() else []


def test_a_directory_is_copied_and_declared(
    machine: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    before = shape(machine.path / "srv/app")
    assert adopt(machine, "/srv/app/") == 0
    out = capsys.readouterr().out
    stored = machine.path / "persistent/srv/app"
    assert shape(stored) == before == shape(machine.path / "srv/app")
    assert stored.parent.stat().st_mode & 0o7777 == 0o711
    assert (stored / "same").samefile(stored / "deep/file")
    assert "/srv/app" in declared(machine)
    assert machine.errors() == []
    assert records(machine) == []
    assert DROP_IN in out
    how = "shared" if machine.path.joinpath("persistent").stat().st_ino == 256 else "copied"
    assert how in out


def test_adopting_resolves_the_unseeded_record_of_that_path_only(machine: MachineTree) -> None:
    """The records of other paths stay."""
    store = os.open(machine.path / "persistent", os.O_RDONLY)
    left = [Omission(f"/srv/{n}", "/persistent", f"srv/{n}", "x") for n in ("app", "b")]
    unseeded.write(store, left)
    assert adopt(machine, "/srv/app") == 0
    assert [one.path for one in unseeded.read(store, "/persistent")] == ["/srv/b"]
    os.close(store)


def test_copies_a_file_and_declares_one_replaced_by_rename_as_copy(
    machine: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.write("etc/adjtime", "0.0\n")
    machine.write("etc/my.conf", "x")
    machine.write("srv/my.db", "x")
    capsys.readouterr()
    assert adopt(machine, "/etc/adjtime", "/etc/my.conf", "/srv/my.db") == 0
    said = capsys.readouterr().out
    assert 'declare it with method = "copy" (timedatectl replaces it)' in said
    assert 'declare it with method = "copy" (sed -i or an editor replaces it)' in said
    files = tomllib.loads((machine.path / DROP_IN).read_text())["persistence"]["/persistent"]
    copied = [{"file": path, "method": "copy"} for path in ("/etc/adjtime", "/etc/my.conf")]
    assert files == {"files": [*copied, "/srv/my.db"]}
    assert (machine.path / "persistent/etc/my.conf").read_text() == "x"
    assert adopt(machine, "/srv/app") == 0
    assert {"/etc/adjtime", "/etc/my.conf", "/srv/app"} <= set(declared(machine))


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("etc/localtime", "/usr/share/zoneinfo/Europe/Berlin"),  # which is missing on this machine
        ("etc/localtime", "../usr/share/zoneinfo/Etc/UTC"),
        ("srv/app/link", "/etc/passwd"),
    ],
)
def test_a_link_persists_as_a_link(
    machine: MachineTree, capsys: pytest.CaptureFixture[str], path: str, target: str
) -> None:
    live, stored = machine.path / path, machine.path / "persistent" / path
    live.unlink(missing_ok=True)
    live.symlink_to(target)
    assert adopt(machine, "--dry-run", f"/{path}") == 0
    assert not os.path.lexists(stored)
    assert adopt(machine, f"/{path}") == 0
    assert os.readlink(stored) == os.readlink(live) == target
    (entry,) = [d for d in machine.examination().declared if d.path == f"/{path}"]
    assert entry.options.method == "copy"
    assert adopt(machine, f"/{path}") == 0, "again"
    live.unlink()
    live.symlink_to("/elsewhere")
    assert adopt(machine, "--replace", f"/{path}") == 0
    assert os.readlink(stored) == "/elsewhere"
    capsys.readouterr()


def test_follows_a_link_to_a_directory_and_names_its_target(
    machine: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    (machine.path / "etc/by-link").symlink_to("/srv/app")
    assert adopt(machine, "--dry-run", "/etc/by-link") == 0
    said = capsys.readouterr().out
    assert "/etc/by-link is a link to the directory /srv/app, which is adopted" in said
    assert "copy /srv/app into /persistent" in said
    assert adopt(machine, "--dry-run", "/etc/by-link/deep") == 0
    assert "is a link" not in capsys.readouterr().out


def test_an_empty_path_is_refused(machine: MachineTree, capsys: pytest.CaptureFixture[str]) -> None:
    assert adopt(machine, "/srv/app", "") == 2
    assert "a PATH is empty" in capsys.readouterr().err
    assert not (machine.path / DROP_IN).exists()


def planned(machine: MachineTree) -> set[str]:
    plan = applied.load(machine.path)
    return set(plan.declared()) if plan is not None else set()


def test_asks_apply_to_put_a_path_in_use_in_place_at_the_next_boot(
    machine: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    assert adopt(machine, "--apply", "--dry-run", "/srv/app") == 0
    assert "then apply the configuration: not done: dry run" in capsys.readouterr().out
    assert planned(machine) == set()
    assert adopt(machine, "/srv/app") == 0
    assert "so that the next boot binds it" in capsys.readouterr().out
    assert planned(machine) == set()
    machine.write("srv/more", "x")
    assert adopt(machine, "--apply", "/srv/more") == 0
    assert {"/srv/app", "/srv/more"} <= planned(machine)
    assert "so that the next boot binds it" not in capsys.readouterr().out
    assert adopt(machine, "--apply", "--json", "/srv/more") == 2


@pytest.mark.parametrize(("answer", "is_applied"), [("y", True), ("", False), ("n", False)])
def test_offers_to_run_apply_on_a_terminal(
    machine: MachineTree, answer: str, is_applied: bool
) -> None:
    ours, its = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    program = Path(sys.executable).with_name("ephemeroot")
    done = subprocess.run(
        [program, "--root", machine.path, "adopt", "/srv/app"], stdin=its, stdout=its,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(its)
    os.close(ours)
    assert done.returncode == 0, done.stderr
    assert "Apply now? [y/N]" in done.stderr
    assert ("/srv/app" in planned(machine)) is is_applied
    assert "/srv/app" in declared(machine)


@pytest.mark.parametrize(
    "name", ["with blank", 'quo"te', "new\nline", "back\\slash", "ü☃", "a=b#c"]
)
def test_odd_names_are_declared_literally(machine: MachineTree, name: str) -> None:
    machine.write(f"srv/{name}/x", "x")
    assert adopt(machine, f"/srv/{name}") == 0
    assert f"/srv/{name}" in declared(machine)
    assert machine.errors() == []
    assert (machine.path / "persistent/srv" / name / "x").read_text() == "x"


def test_refuses_names_that_cannot_be_declared(
    machine: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    (machine.path / "srv" / "\udcff").mkdir()
    assert adopt(machine, "/srv/\udcff") == 2
    assert "not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "code", "said"),
    [
        ("/srv/none", 1, "No such file"),
        ("/srv/app/fifo", 1, "is neither a directory nor a regular file"),
        ("srv", 2, "not an absolute path"),
        ("/persistent/x", 0, "is already persistent"),
        ("/", 2, ""),
        ("/etc", 0, ""),
    ],
)
def test_refusals(
    machine: MachineTree, capsys: pytest.CaptureFixture[str], path: str, code: int, said: str
) -> None:
    machine.write("persistent/x/y", "")
    os.mkfifo(machine.path / "srv/app/fifo")
    got = adopt(machine, path)
    printed = capsys.readouterr()
    if path == "/etc":
        assert got in (0, 10), printed
        return
    assert got == code, printed
    assert said in printed.err + printed.out
    assert not (machine.path / DROP_IN).exists()


def test_persistent_paths_are_left_alone(
    machine: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.write("var/log/deep/x", "")
    assert adopt(machine, "/var/log/deep") == 0
    assert "is already persistent, as part of /var/log" in capsys.readouterr().out
    assert adopt(machine, "/srv/app") == 0
    drop = (machine.path / DROP_IN).read_text()
    (machine.path / "srv/app/deep/file").write_text("of the root")
    assert adopt(machine, "/srv/app") == 0
    assert "--replace" in capsys.readouterr().out
    assert (machine.path / "persistent/srv/app/deep/file").read_text() != "of the root"
    assert (machine.path / DROP_IN).read_text() == drop


def test_replace_keeps_the_stores_content_aside(machine: MachineTree) -> None:
    machine.write("persistent/srv/app/old", "of an earlier time")
    assert adopt(machine, "/srv/app") == 1
    assert not (machine.path / DROP_IN).exists()
    assert adopt(machine, "--replace", "/srv/app") == 0
    assert records(machine) == []
    assert shape(machine.path / "persistent/srv/app") == shape(machine.path / "srv/app")
    (aside,) = (machine.path / "persistent/.ephemeroot/replaced").iterdir()
    assert (aside / "old").read_text() == "of an earlier time"


def test_two_entries_of_one_name_are_both_kept_aside(machine: MachineTree) -> None:
    for parent in ("a", "b"):
        machine.write(f"srv/{parent}/same", "new")
        machine.write(f"persistent/srv/{parent}/same", f"old {parent}")
    assert adopt(machine, "--replace", "/srv/a/same", "/srv/b/same") == 0
    aside = (machine.path / "persistent/.ephemeroot/replaced").iterdir()
    assert sorted(path.read_text() for path in aside) == ["old a", "old b"]


def test_content_kept_aside_survives_a_kill_during_replacement(machine: MachineTree) -> None:
    """The second, unchanged run must not remove the content that the first one promised to keep."""
    old = machine.path / "persistent/srv/app/old"
    aside = machine.path / "persistent/.ephemeroot/replaced"
    count = 0
    while True:
        machine.write("persistent/srv/app/old", "of an earlier time")
        killed = killed_at(count, lambda: adopt(machine, "--replace", "/srv/app"))
        assert adopt(machine, "--replace", "/srv/app") == 0
        kept = [path / "old" for path in aside.iterdir()]
        assert any(path.exists() for path in kept), count
        assert not old.exists()
        assert shape(machine.path / "persistent/srv/app") == shape(machine.path / "srv/app")
        subprocess.run(["rm", "-rf", aside, old.parent, machine.path / DROP_IN], check=True)
        if not killed:
            break
        count += 1 if proof.is_whole() else 4
    assert count > 25


def test_does_not_overwrite_content_that_the_store_has_under_the_path(machine: MachineTree) -> None:
    """The path was declared earlier: the content under that name in the root is not the same."""
    machine.write("srv/beside/x", "of the root")
    machine.write("persistent/srv/beside/x", "of an earlier time")
    assert adopt(machine, "/srv/app") == 0
    assert adopt(machine, "/srv") == 1
    assert (machine.path / "persistent/srv/beside/x").read_text() == "of an earlier time"
    assert "/srv" not in declared(machine)


def test_does_not_replace_a_path_while_content_below_it_is_in_use(
    machine: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.write("srv/beside", "")
    adopter = Adopter(machine.path, read(machine.machine), machine.machine, ["/srv/app/deep"])
    adopter.adoptions[0].bind = True
    adopter.adoptions[0].execute()
    (machine.path / "srv/app/deep/file").write_text("in the store alone")
    assert adopt(machine, "--replace", "/srv") == 1
    assert "is in use from the store" in capsys.readouterr().err
    stored = machine.path / "persistent/srv/app/deep/file"
    assert stored.read_text() == "in the store alone"
    assert adopt(machine, "/srv") == 0
    assert stored.read_text() == "in the store alone"


@pytest.mark.parametrize("machine", ["one btrfs"], indirect=True)
def test_a_boot_after_an_interrupted_adopt_keeps_the_adopted_content(
    machine: MachineTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power fails during `adopt`, and the next root is a copy of the base: its content under
    that name must not replace the adopted content.
    """
    stored = machine.path / "persistent/srv/app"
    with monkeypatch.context() as patch:
        patch.setattr(underway, "forget", lambda *_: None)
        assert adopt(machine, "/srv/app") == 0
    assert len(records(machine)) == 1
    before = shape(stored)
    next_boot(machine.path)
    machine.write("srv/app/deep/file", "of the base")
    assert adopt(machine, "/srv/app") == 0
    assert shape(stored) == before


def next_boot(root: Path) -> None:
    """Mount a fresh root in place of the one at *root*, and the store in it."""
    device = subprocess.run(
        ["findmnt", "-nvo", "SOURCE", root], check=True, capture_output=True, text=True
    ).stdout.strip()
    subprocess.run(["umount", root / "persistent"], check=True)
    top = root.with_name("top level")
    top.mkdir()
    subprocess.run(["mount", "-o", "subvolid=5", device, top], check=True)
    btrfsutil.create_snapshot(str(top / "root"), str(top / "fresh"))
    subprocess.run(["umount", top], check=True)
    subprocess.run(["umount", root], check=True)
    subprocess.run(["mount", "-o", "subvol=fresh", device, root], check=True)
    subprocess.run(["mount", "-o", "subvol=persistent", device, root / "persistent"], check=True)


def test_a_path_inside_another_is_adopted_with_it(
    machine: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    assert adopt(machine, "/srv/app/deep", "/srv/app", "/srv/app/") == 0
    assert "/srv/app/deep is included in /srv/app" in capsys.readouterr().out
    assert declared(machine).count("/srv/app") == 1
    assert "/srv/app/deep" not in declared(machine)
    assert shape(machine.path / "persistent/srv/app") == shape(machine.path / "srv/app")


def test_adopts_a_directory_whose_children_are_already_declared(machine: MachineTree) -> None:
    """The store has /srv only as the parent of /srv/app: the rest of /srv is added."""
    assert adopt(machine, "/srv/app") == 0
    stored = machine.path / "persistent/srv"
    (stored / "app/deep/file").write_text("newer, for it is bound")
    machine.write("srv/beside/x", "beside")
    machine.write("srv/file", "file")
    assert adopt(machine, "/srv") == 0
    assert (stored / "beside/x").read_text() == "beside"
    assert (stored / "file").read_text() == "file"
    assert (stored / "app/deep/file").read_text() == "newer, for it is bound"
    assert {"/srv", "/srv/app"} <= set(declared(machine))
    assert machine.errors() == []
    assert records(machine) == []


def test_adopts_a_declared_path_that_was_too_large_to_seed(machine: MachineTree) -> None:
    machine.write(MAIN, ROOT + VOLUME + STORE.replace('"/var/log"', '"/var/log", "/srv/app"'))
    assert adopt(machine, "/srv/app") == 0
    assert shape(machine.path / "persistent/srv/app") == shape(machine.path / "srv/app")
    assert not (machine.path / DROP_IN).exists(), "it was declared already"


def test_a_dry_run_changes_nothing(
    machine: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    before = shape(machine.path)
    assert adopt(machine, "--dry-run", "/srv/app") == 0
    assert "copy /srv/app into /persistent" in capsys.readouterr().out
    assert adopt(machine, "--dry-run", "--json", "/srv/app") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["adoptions"][0]["path"] == "/srv/app"
    assert document["adoptions"][0]["result"] is None
    assert shape(machine.path) == before


def test_names_processes_that_write_to_the_path(
    machine: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    name = machine.path / "srv/app/database"
    code = f"f = open({str(name)!r}, 'w'); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        assert adopt(machine, "/srv/app") == 2  # there is no terminal to ask on
        said = capsys.readouterr()
        assert f"(process {writer.pid}) writes to {name}" in said.err
        assert not (machine.path / "persistent/srv/app").exists()
        assert adopt(machine, "--yes", "/srv/app") == 0
        writer.communicate("\n")
    assert (machine.path / "persistent/srv/app/database").exists()


def test_binds_the_path_at_once_on_an_ephemeral_root(machine: MachineTree) -> None:
    adopter = Adopter(machine.path, read(machine.machine), machine.machine, ["/srv/app"])
    (one,) = adopter.adoptions
    one.bind = True
    assert "bound" in one.execute()
    (machine.path / "srv/app/after").write_text("into the store")
    assert (machine.path / "persistent/srv/app/after").read_text() == "into the store"
    again = Adopter(machine.path, read(machine.machine), machine.machine, ["/srv/app"])
    assert again.adoptions == []
    assert again.settled == ["/srv/app is already persistent"]
    with pytest.raises(OSError, match="busy"):
        (machine.path / "srv/app").rmdir()


def test_does_not_copy_mounts_below_the_path(machine: MachineTree) -> None:
    below = machine.path / "srv/app/elsewhere"
    below.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", below], check=True)
    (below / "x").write_text("not the root's")
    assert adopt(machine, "/srv/app") == 0
    assert list((machine.path / "persistent/srv/app/elsewhere").iterdir()) == []
    assert adopt(machine, "/srv/app/elsewhere") == 0, "persists by /srv/app"


def test_a_full_store_stays_unchanged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = MachineTree(tmp_path / "machine")
    store = tmp_path / "machine/persistent"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64K", "none", store], check=True)
    try:
        tree.mark("persistent")
        tree.write("srv/app/large", "x" * 200000)
        assert adopt(tree, "/srv/app") == 1
        assert "is full" in capsys.readouterr().err
        assert not (store / "srv").exists()
        assert not (tree.path / DROP_IN).exists()
        assert records(tree) == []
    finally:
        subprocess.run(["umount", store], check=True)


class Killer:
    """Kills this process at its n-th call that changes a filesystem."""

    CALLS = ("mkdir", "open", "rename", "write", "unlink", "symlink", "link", "utime", "fchown",
             "fsync", "ftruncate", "sendfile", "rmdir")  # fmt: skip

    def __init__(self, count: int) -> None:
        self.left = count

    def patch(self) -> None:
        for name in self.CALLS:
            setattr(os, name, self._counted(getattr(os, name)))
        paths.rename = self._counted(paths.rename)

    def _counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **more: Any) -> Any:
            flags = words[1] if real.__name__ == "open" and len(words) > 1 else os.O_CREAT
            if isinstance(flags, int) and not flags & os.O_CREAT and real.__name__ == "open":
                return real(*words, **more)
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*words, **more)

        return call


def killed_at(count: int, action: Callable[[], int]) -> bool:
    """Whether *action* was killed before it finished."""
    child = os.fork()
    if child == 0:
        code = 99
        with suppress(BaseException):
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, 1)
            os.dup2(devnull, 2)
            Killer(count).patch()
            code = action()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, f"exit status {os.WEXITSTATUS(status)} at {count}"
    return False


def test_a_kill_at_any_call_loses_nothing_and_a_second_run_completes(machine: MachineTree) -> None:
    wanted = shape(machine.path / "srv/app")
    stored = machine.path / "persistent/srv/app"
    count = 0
    while killed_at(count, lambda: adopt(machine, "/srv/app")):
        assert shape(machine.path / "srv/app") == wanted, count
        if stored.exists():
            assert shape(stored) == wanted, count
            assert "/srv/app" in declared(machine), f"in place and not declared, at {count}"
        # The second run may come much later; until then the root is still correct.
        (machine.path / "srv/app/deep/file").write_text(f"changed after the cut at {count}")
        wanted = shape(machine.path / "srv/app")
        assert machine.errors() == []
        assert adopt(machine, "/srv/app") == 0
        assert shape(stored) == wanted, count
        assert records(machine) == []
        subprocess.run(["rm", "-rf", stored.parent, machine.path / DROP_IN], check=True)
        count += 1 if proof.is_whole() else 4
    assert count > 25, "it was killed at too few points to mean anything"
    assert shape(stored) == wanted


def test_keeps_manual_edits_of_the_drop_in(machine: MachineTree) -> None:
    assert adopt(machine, "/srv/app") == 0
    drop = machine.path / DROP_IN
    edited = drop.read_text().replace("[persistence", "# mine\n[persistence")
    drop.write_text(edited)
    machine.write("srv/b/x", "")
    assert adopt(machine, "/srv/b") == 0
    assert drop.read_text() == edited
    second = drop.with_name("adopted-2.toml")
    assert drop_in.parse(second.read_text()) == [Declaration("/srv/b", "/persistent", True)]
    assert {"/srv/app", "/srv/b"} <= set(declared(machine))


def test_adopts_into_another_store(tmp_path: Path) -> None:
    tree = MachineTree(tmp_path, SOUND + '[persistence."/other"]\n' + VOLUME.replace(
        "/persistent", "/other").replace("subvol=persistent", "subvol=other"))  # fmt: skip
    tree.mark("other")
    tree.write("srv/x", "x")
    assert adopt(tree, "--store", "/other/", "/srv") == 0
    assert (tmp_path / "other/srv/x").read_text() == "x"
    (entry,) = [d for d in tree.examination().declared if d.path == "/srv"]
    assert entry.store == "/other"
    assert adopt(tree, "--store", "/nowhere", "/srv") == 2


def test_refuses_to_run_twice_at_once(machine: MachineTree) -> None:
    import fcntl

    folder = os.open(machine.path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        assert adopt(machine, "/srv/app") == 3
    finally:
        os.close(folder)
    assert Machine.of(str(machine.path)) is not None


@pytest.mark.parametrize("machine", ["one btrfs"], indirect=True)
def test_adopts_a_path_on_its_own_subvolume_of_the_store(
    machine: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing can be renamed there from the store's directory of records, so the copy is completed
    beside its destination.
    """
    place = machine.path / "persistent/srv"
    btrfsutil.create_subvolume(str(place))
    os.chown(place, 1000, 1000)
    before = shape(machine.path / "srv/app")
    assert adopt(machine, "/srv/app") == 0
    assert shape(place / "app") == before
    assert os.listdir(place) == ["app"]
    assert records(machine) == []
    (machine.path / "srv/app/new").touch()
    assert adopt(machine, "/srv/app", "--replace") == 1
    assert "is a separate subvolume there" in capsys.readouterr().err
