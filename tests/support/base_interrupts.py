"""``base run`` and ``base rollback``, interrupted at many steps one after the other.

Runs as root in the machine of ``base_machine``. Prints JSON: the number of steps and of
interruptions, and the lost bases, which must be an empty list.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from ephemeroot.backends.btrfs.bases import Bases, Opened, Place
from ephemeroot.base import bootfiles, change, kernels, mounting, record
from ephemeroot.base.work import Order
from ephemeroot.config import Machine, read
from ephemeroot.linux import paths
from ephemeroot.linux.namespace import Namespace
from ephemeroot.machine.root import Root
from ephemeroot.wipers import retire
from ephemeroot.wipers import rotation as shared
from ephemeroot.wipers.btrfs import fresh, recovery, retirement, rotation, subvolumes
from ephemeroot.wipers.btrfs.toplevel import Toplevel
from interrupting import Interrupter
from proof import sample

CODE = (
    change,
    record,
    bootfiles,
    kernels,
    fresh,
    rotation,
    shared,
    retirement,
    retire,
    recovery,
    paths,
)
EXCHANGE = ("_place_once", "_exchange", "rename", "into_history", "discard", "_settled")

# One file in the base and one in /boot, which must come from the same run.
COMMAND = "cat /run/content > /etc/content; cat /run/content > /boot/content"


class Trial:
    """Interrupted runs of *verb* on the base at *place*."""

    def __init__(self, verb: str, place: Place) -> None:
        self.verb = verb
        self.place = place
        self.interrupter = Interrupter(CODE, EXCHANGE)
        self.lost: list[str] = []
        self.interrupted = 0

    def run(self, size: int) -> dict[str, Any]:
        self.attempt(-1)  # modules that are imported late are imported now
        self.attempt(-1)
        steps = self.interrupter.steps
        for step in sample(range(steps), size):
            self.attempt(step)
        return {"steps": steps, "interrupted": self.interrupted, "lost": self.lost}

    def attempt(self, step: int) -> None:
        Path("/run/content").write_text(f"{self.verb} {step}\n")
        # A directory of this test that the program never removes, except for mounts in it.
        private = Path("/run/private")
        private.mkdir(exist_ok=True)
        with Toplevel(self.place.device, [], str(private), writable=True) as top:
            with Bases(top, self.place.base, self.place.old_bases, create=True) as bases:
                opened = Opened(self.place, str(private), bases)
                before = self.uuids(opened)
                finished = self.interrupter.run(lambda: self.act(opened), at=step)
                self.interrupted += not finished
                # As the end of the process does, to which the mount namespace belongs.
                mounting.Assembly(f"{private}/assembly").detach()
                self.judge(opened, before, "after it")
            # As the next run does.
            with Bases(top, self.place.base, self.place.old_bases, create=True) as bases:
                opened = Opened(self.place, str(private), bases)
                change.recover(opened, lambda line: None)
                self.judge(opened, before, "after recovery")
                if bases.leftovers() or record.Record(opened).exists():
                    self.lose("something is left after recovery")
                for entry in bases.retired()[4:]:
                    subvolumes.delete(top.fd, entry.serial)

    def act(self, opened: Opened) -> None:
        if self.verb == "run":
            words = ["sh", "-ec", COMMAND]
            change.run(opened, Order(words, lambda: None, lambda *_: None), lambda line: None)
        else:
            old = [entry for entry in opened.bases.retired() if ".unused" not in entry.label]
            newest = max(old, key=lambda entry: entry.serial)
            change.rollback(opened, newest, lambda line: None, dry_run=False)

    def uuids(self, opened: Opened) -> set[str]:
        """UUIDs of the base and of all old ones, under any name. A copy that never was the base
        (``.unused``) may be pruned at any time.
        """
        found = set()
        for path, _ in subvolumes.nested(opened.top.fd, subvolumes.TOP_LEVEL):
            if path != self.place.root and not path.endswith(".unused"):
                fd = subvolumes.open_directory(opened.top.fd, path)
                found.add(subvolumes.identify(fd).uuid)
                os.close(fd)
        return found

    def judge(self, opened: Opened, before: set[str], when: str) -> None:
        if not before <= self.uuids(opened):
            self.lose(f"{when} {len(before - self.uuids(opened))} bases are gone")
        base = opened.path
        if not (base / "etc/os-release").exists():
            self.lose(f"{when} there is no base")
        elif not list((base / "lib/modules").iterdir()):
            self.lose(f"{when} the base has no kernel modules")
        if self.verb == "run" and when == "after recovery" and self.interrupter.steps:
            inside, outside = base / "etc/content", Path("/boot/content")
            contents = [p.read_text() if p.exists() else "" for p in (inside, outside)]
            if contents[0] != contents[1]:
                self.lose(f"{when} the base is of {contents[0]!r}, /boot of {contents[1]!r}")

    def lose(self, what: str) -> None:
        self.lost.append(f"step {self.interrupter.at}, {self.interrupter.place}: {what}")


def main(verb: str, size: int) -> None:
    with Namespace():
        machine = Machine.of()
        wiping = read(machine).wiping
        assert wiping is not None
        assert wiping.plugin is not None
        root = Root.named(machine, wiping.device, wiping.subvolume)
        place = Place.of(
            wiping.plugin.wiper(dict(wiping.settings)), str(root.device), root.subvolume
        )
        print(json.dumps(Trial(verb, place).run(size)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
