"""The changes on the machine between boots, and their state after each boot, read from the disk."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

from machine import ADA, Machine

PERSISTENT = (
    "/etc/machine-id",
    "/etc/hostname",
    "/var/log/messages",
    "/home/ada/Documents/letter",
)
EPHEMERAL = (
    "/etc/motd",
    "/root/todo",
    "/home/ada/Downloads/film",
    "/usr/local/bin/miner",
)
WATCHED = PERSISTENT + EPHEMERAL


class Unexpected(Exception):
    """A file is not in the state that the configuration demands; names it."""


def install_by_hand(root: Path) -> None:
    """The files of the machine before Ephemeroot is configured."""
    (root / "etc/machine-id").write_text(f"{uuid4().hex}\n")
    (root / "etc/hostname").write_text("ada-laptop\n")
    (root / "home/ada/Documents").mkdir(mode=0o700)
    os.chown(root / "home/ada/Documents", ADA, ADA)


def live(root: Path, day: int) -> None:
    """A day on the machine: files to keep, and files that accumulate."""
    with (root / "var/log/messages").open("a") as log:
        log.write(f"day {day}: all is well\n")
    letter = root / "home/ada/Documents/letter"
    with letter.open("a") as file:
        file.write(f"Dear Charles, on day {day} …\n")
    os.chown(letter, ADA, ADA)
    (root / "root/todo").write_text(f"day {day}: write that down somewhere safe\n")
    (root / "etc/motd").write_text(f"day {day}: changed by a program\n")
    (root / "usr/local/bin/miner").write_text(f"#!/bin/sh\n# dropped on day {day}\n")
    downloads = root / "home/ada/Downloads"
    downloads.mkdir(exist_ok=True)
    (downloads / "film").write_text(f"episode {day}\n")


def look(root: Path) -> dict[str, str]:
    """The content of each watched file that exists."""
    found = {}
    for name in WATCHED:
        file = root / name.lstrip("/")
        if file.is_file():
            found[name] = file.read_text()
    return found


def brief(text: str | None) -> str:
    """A file's last line, shortened; a dash for a missing file."""
    if text is None:
        return "–"
    line = text.splitlines()[-1]
    return line if len(line) <= 24 else f"{line[:23]}…"


def verdict(machine: Machine, name: str, before: str, now: str | None, retired: str) -> str:
    """The state of the file *name*. Raises ``Unexpected`` if it contradicts the configuration."""
    base = machine.top / "root-base" / name.lstrip("/")
    if name in PERSISTENT:
        if now != before:
            raise Unexpected(f"{name} is declared but did not persist: {before!r} is now {now!r}")
        store = machine.sysroot / "persistent"
        place = machine.sysroot / name.lstrip("/")
        # Each subvolume has a device number of its own.
        where = "bound" if place.stat().st_dev == store.stat().st_dev else "copied"
        return f"persisted, {where}"
    kept = machine.top / "old_roots" / retired / name.lstrip("/")
    if not kept.is_file() or kept.read_text() != before:
        raise Unexpected(f"{name} is not in old_roots/{retired} with its last content")
    if now is None and not base.exists():
        return "wiped"
    if base.is_file() and now == base.read_text():
        return "wiped, the base's again"
    raise Unexpected(f"{name} is not declared but still exists: {now!r}")
