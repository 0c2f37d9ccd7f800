"""``ephemeroot base list``: the base and the bases that it replaced."""

from __future__ import annotations

import argparse
import os
from typing import Any

from ephemeroot import amounts, terminal
from ephemeroot.backends.contract import Bases
from ephemeroot.base import kernels
from ephemeroot.base.record import Record
from ephemeroot.cli import output
from ephemeroot.linux import paths


def show(arguments: argparse.Namespace, place: Bases) -> None:
    """Print the base and the bases that it replaced."""
    rows = []
    fd = place.present()
    if fd >= 0:
        rows.append({"name": place.name, "present": True, **_facts(place, fd)})
    rows += [
        {"name": entry.label, "present": False, **_facts(place, place.open(entry))}
        for entry in sorted(place.old(), key=lambda entry: -entry.serial)
    ]
    cut = Record(place).exists()
    if arguments.json:
        output.print_json("base", {"bases": rows, "cut-off": cut})
        return
    if not rows:
        terminal.say("there is no base yet: run 'ephemeroot base create'")
    _print_table(rows)
    if cut:
        terminal.warning(
            "the last run was interrupted by a crash or a power failure",
            "run 'ephemeroot base run' or reboot: both restore the files first",
        )


def _facts(place: Bases, fd: int) -> dict[str, Any]:
    """Of the open base *fd*, which is closed."""
    try:
        return {"made": place.made(fd), "system": _system(fd), "kernels": kernels.releases(fd)}
    finally:
        os.close(fd)


def _system(fd: int) -> str:
    """What the base calls itself (os-release(5))."""
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            opened_ = paths.open_in_root(fd, path, os.O_RDONLY)
        except OSError:
            continue
        with os.fdopen(opened_, encoding="utf-8", errors="replace") as file:
            for line in file:
                key, _, value = line.strip().partition("=")
                if key == "PRETTY_NAME":
                    return value.strip("\"'")
    return ""


def _print_table(rows: list[dict[str, Any]]) -> None:
    shown = [
        (
            row["name"],
            terminal.moment(row["made"]),
            row["system"],
            amounts.listed(row["kernels"], 3) or "no kernel modules",
            "the base" if row["present"] else "",
        )
        for row in rows
    ]
    terminal.table(shown, indent=0)
