"""``status`` and ``diff`` examine the present mounts, inodes and links: every method, and every way
in which a path can stop being in effect.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from btrfs_image import fresh_disk
from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.operations.copies import Copy
from ephemeroot.hooks.operations.directories import Directory
from ephemeroot.hooks.operations.files import File
from ephemeroot.hooks.operations.overlays import Overlay
from ephemeroot.hooks.plan import Plan
from living_machine import STORE, LivingMachine

pytestmark = [pytest.mark.requires_loop, pytest.mark.usefixtures("private_mounts")]


def by_file(live: Path, stored: Path) -> None:
    new = live.with_name(f"{live.name}.new")
    new.write_text("of a program")
    new.rename(live)


def by_directory(live: Path, stored: Path) -> None:
    live.unlink(missing_ok=True)
    live.mkdir()
    (live / "of a program").touch()


def by_link(live: Path, stored: Path) -> None:
    live.unlink()
    live.symlink_to("/elsewhere")


def removed(live: Path, stored: Path) -> None:
    live.unlink()


def unmounted(live: Path, stored: Path) -> None:
    subprocess.run(["umount", live], check=True)


def covered(live: Path, stored: Path) -> None:
    source = live.parent / "cover"
    if live.is_dir():
        subprocess.run(["mount", "-t", "tmpfs", "none", live], check=True)
        return
    if not source.exists():
        source.write_text("another")
    subprocess.run(["mount", "--bind", source, live], check=True)


def store_replaced(live: Path, stored: Path) -> None:
    stored.rename(stored.with_name(f"{stored.name}.old"))
    if live.is_dir():
        stored.mkdir()
    else:
        stored.write_text("another")


def store_removed(live: Path, stored: Path) -> None:
    subprocess.run(["rm", "-r", stored], check=True)


def written(live: Path, stored: Path) -> None:
    if live.is_symlink():
        live = stored  # the link resolves only inside the machine
    if live.is_dir():
        (live / "new").write_text("new")
    else:
        live.write_text("new")


def nothing(live: Path, stored: Path) -> None:
    pass


Event = Callable[[Path, Path], None]

EVENTS: dict[str, dict[Event, str]] = {
    "link-file": {
        nothing: "", written: "", by_file: "replaced the link into the store by a file",
        by_directory: "by a directory", by_link: "leads to /elsewhere", removed: "was removed",
        store_replaced: "",
    },
    "link-directory": {
        nothing: "", written: "", by_file: "by a file", by_directory: "by a directory",
        by_link: "leads to /elsewhere", removed: "was removed",
    },
    "dangling": {
        nothing: "", written: "", by_file: "by a file", by_directory: "by a directory",
        removed: "was removed",
    },
    "bind-file": {
        nothing: "", written: "", unmounted: "no longer mounted", store_replaced: "was replaced",
        store_removed: "was removed", covered: "another filesystem",
    },
    "bind-directory": {
        nothing: "", written: "", unmounted: "no longer mounted", store_replaced: "was replaced",
        store_removed: "was removed", covered: "another filesystem",
    },
    "overlay": {
        nothing: "", written: "", unmounted: "no longer mounted", covered: "another filesystem",
    },
    "copy": {
        nothing: "", written: "", by_file: "", by_directory: "a directory replaced the file",
        by_link: "",  # copied as a link
    },
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    kind: str
    event: Event
    reason: str

    @property
    def path(self) -> str:
        return f"/srv/{self.kind}-{self.event.__name__}"

    def operation(self) -> Operation:
        about: dict[str, Any] = {"path": self.path, "store": STORE, "source": self.path[1:]}
        if self.kind.startswith("link"):
            about["method"] = "symlink"
        kinds: dict[str, type[Operation]] = {
            "link-file": File, "link-directory": Directory, "dangling": File, "bind-file": File,
            "bind-directory": Directory, "overlay": Overlay, "copy": Copy,
        }  # fmt: skip
        return kinds[self.kind](**about)

    def fill(self, store: Path) -> None:
        stored = store / self.path[1:]
        stored.parent.mkdir(exist_ok=True)
        if self.kind in ("link-directory", "bind-directory"):
            stored.mkdir()
        elif self.kind not in ("dangling", "overlay"):
            stored.write_text("stored")


CASES = [Case(kind, event, reason) for kind, found in EVENTS.items()
         for event, reason in found.items()]  # fmt: skip


class Machine(LivingMachine):
    def plan(self, *more: Operation) -> Plan:
        return super().plan(*(case.operation() for case in CASES), *more)

    def diff(self) -> Any:
        done = self.call("diff", "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def not_in_effect(self) -> dict[str, Any]:
        content = json.loads(self.call("status", "--json").stdout)
        return {one["path"]: one for one in content["not-in-effect"]}


@contextmanager
def machine_of(folder: Path) -> Iterator[Machine]:
    with fresh_disk(folder, 256) as disk:
        machine = Machine(disk, folder / "machine")
        for case in CASES:
            case.fill(disk.top / "store")
            if case.kind == "overlay":
                (disk.top / "base" / case.path[1:]).mkdir(parents=True)
        try:
            machine.boot_by_the_stages()
            yield machine
        finally:
            machine.shut_down()


def test_detects_and_reports_each_change_of_a_path(tmp_path: Path) -> None:
    with machine_of(tmp_path) as machine:
        assert machine.not_in_effect() == {}
        assert machine.diff()["not-in-effect"] == []
        before = os.stat(machine.root / "run/ephemeroot/boot.json").st_mtime
        for case in CASES:
            case.event(machine.root / case.path[1:], machine.root / STORE[1:] / case.path[1:])
        found = machine.not_in_effect()
        expected = {case.path: case for case in CASES if case.reason}
        assert sorted(found) == sorted(expected)
        for path, case in expected.items():
            assert case.reason in found[path]["reason"], path
            since = found[path]["since"]
            if case.event in (by_file, by_directory, by_link, store_replaced, store_removed):
                assert before - 60 <= since <= before + 3600, path
            else:
                assert since is None or since >= before - 60, path
        done = machine.call("status")
        assert done.returncode == 10
        for path in expected:
            assert f"{path} is declared but not in effect" in done.stdout
        # Files that programs write there are lost: they are differences, but need no declaration.
        content = machine.diff()
        assert sorted(one["path"] for one in content["not-in-effect"]) == sorted(expected)
        differs = {one["path"] for one in content["differences"]}
        for case in CASES:
            replaced = case.event in (by_file, by_directory, by_link) and case.reason
            place = case.event is unmounted and case.kind != "overlay"
            assert (case.path in differs) == bool(replaced or place), case.path
        lines = machine.call("diff", "--lines").stdout
        assert not [case.path for case in CASES if f'"{case.path}"' in lines]


def test_binds_outlive_an_unmounted_store(tmp_path: Path) -> None:
    with machine_of(tmp_path) as machine:
        subprocess.run(["umount", machine.root / STORE[1:]], check=True)
        assert machine.not_in_effect() == {}
        subprocess.run(["umount", machine.root / "srv/bind-file-nothing"], check=True)
        assert list(machine.not_in_effect()) == ["/srv/bind-file-nothing"]


def test_a_path_that_failed_in_this_boot_is_not_in_effect(tmp_path: Path) -> None:
    with machine_of(tmp_path) as machine:
        machine.shut_down()
        stored = machine.disk.top / "store/srv/bind-directory-nothing"
        stored.rmdir()
        stored.write_text("a file")
        machine.boot_by_the_stages()
        found = machine.not_in_effect()
        assert list(found) == ["/srv/bind-directory-nothing"]
        one = found["/srv/bind-directory-nothing"]
        assert "it failed in this boot: " in one["reason"]
        assert one["since"] is not None
