"""A machine that was applied, booted and used, and on which `leave` then runs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from complete_boot import mark_boot_complete
from ephemeroot import cli
from ephemeroot.hooks.operations.copies import Copy
from ephemeroot.hooks.operations.directories import Directory, Parent
from ephemeroot.hooks.operations.files import File
from ephemeroot.hooks.operations.machine_id import MachineId
from ephemeroot.hooks.operations.overlays import Overlay
from ephemeroot.leave.completion import Finish
from ephemeroot.plan import stores
from ephemeroot.wipers.btrfs import Btrfs
from staged_machine import STORE, Machine

LEFT = {
    "srv/deep/odd \n name": "data",
    "var/lib/inner/a": "inner",
    "var/lib/b": "outer",
    "var/linked/c": "linked",
    "etc/hostname": "mine\n",
    "etc/later": "through the link",
    "etc/ephemeroot/ephemeroot.toml": "# mine\n",
    "etc/adjtime": "0.0\n",
}
AFTER = LEFT | {"opt/app/shipped": "of the base", "opt/app/added": "in the overlay"}


def bind(path: str, **values: Any) -> Directory:
    return Directory(path=path, store=STORE, source=path.lstrip("/"), **values)


def file(path: str, **values: Any) -> File:
    return File(path=path, store=STORE, source=path.lstrip("/"), **values)


class MachineInUse(Machine):
    """A machine that was applied, booted and used."""

    def start(self) -> Path:
        self.persist = [
            Parent(path="/etc", store=STORE, source="etc"),
            Parent(path="/var", store=STORE, source="var"),
            Parent(path="/opt", store=STORE, source="opt"),
            bind("/etc/ephemeroot"),
            bind("/srv"),
            bind("/var/lib"),
            bind("/var/lib/inner"),
            bind("/var/linked", method="symlink"),
            file("/etc/hostname"),
            file("/etc/later"),
            file("/etc/never"),
            Copy(path="/etc/adjtime", store=STORE, source="etc/adjtime"),
            Overlay(path="/opt/app", store=STORE, source="opt/app"),
            MachineId(store=STORE),
        ]
        store = self.top / "persistent"
        for name in ("etc/ephemeroot", "srv/deep", "var/lib/inner", "var/linked", "opt"):
            (store / name).mkdir(parents=True)
        (store / "etc/ephemeroot/plan.json").write_bytes(self.plan().dump())
        (store / "etc/ephemeroot/ephemeroot.toml").write_text("# mine\n")
        (store / "etc/hostname").write_text("mine\n")
        (store / "etc/adjtime").write_text("0.0\n")
        (store / "srv/deep/odd \n name").write_text("data")
        (store / "var/lib/inner/a").write_text("inner")
        (store / "var/lib/b").write_text("outer")
        (store / "var/linked/c").write_text("linked")
        for base in ("root-base", "root"):
            (self.top / base / "opt/app").mkdir(parents=True)
            (self.top / base / "opt/app/shipped").write_text("of the base")
            (self.top / base / "srv/hidden").write_text("hidden by the bind")
        stores.record(store, self.plan().dump(), self.generation)
        root = self.boot()
        subprocess.run(["mount", "-o", "remount,rw", root], check=True)
        (root / "persistent/etc/later").write_text("through the link")
        (root / "opt/app/added").write_text("in the overlay")
        assert mark_boot_complete(Btrfs({}), root)
        return root

    def armed(self) -> dict[str, str]:
        """The content of the root after an armed boot; links into the store do not resolve from
        here.
        """
        plan = {"etc/ephemeroot/plan.json": self.plan().dump().decode()}
        return {k: v for k, v in (AFTER | plan).items() if not k.startswith("var/linked")}

    @property
    def bare(self) -> Path:
        """The root without binds."""
        return self.top / "root"

    def reboot_plain(self) -> Path:
        """A boot with an image that does not contain Ephemeroot."""
        self.next_boot()
        root = self.base / "sysroot"
        options = "subvol=root,rw"
        subprocess.run(["mount", "-t", "btrfs", "-o", options, self.loop, root], check=True)
        return root

    def finish(self, root: Path) -> Finish:
        private = self.base / f"private{self.boots}"
        private.mkdir()
        finish = Finish(root, private)
        try:
            assert finish.run(lambda line: None)
        finally:
            for point in ("merged", "persistent"):
                subprocess.run(["umount", private / point], capture_output=True)
        return finish


def leave(root: Path, *words: str) -> int:
    return cli.main(["leave", "--no-images", "--root", str(root), *words])
