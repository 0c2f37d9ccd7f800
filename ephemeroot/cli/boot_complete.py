"""``ephemeroot boot-complete``: record that this boot was complete (called by a unit)."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from ephemeroot import terminal
from ephemeroot.base import cut_off
from ephemeroot.cli import access
from ephemeroot.errors import Damaged, EphemerootError
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.stage import RUN, WIPED
from ephemeroot.linux import documents, mountinfo, paths
from ephemeroot.plan import foreign, lock

_REBOOT = "reboot: each boot writes a new record"


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb has no arguments of its own."""
    access.declare(parser, "the new roots of this boot, and the filesystem of the base")


def run(arguments: argparse.Namespace) -> int:
    """Mark the new root and volumes of this boot as boot-complete; kept ones are marked already."""
    other = foreign.of_boot(Path(arguments.root))
    if other is not None:
        sys.stdout.write(f"not recorded: {other.message}\n")
        return 0
    failed: list[EphemerootError] = []
    for wipe, fresh in _made_fresh(Path(RUN, WIPED)):
        try:
            marked = _mark(wipe, fresh)
        except OSError as error:
            failed.append(
                EphemerootError(
                    f"cannot mark {wipe.target} as boot-complete: {error.strerror}",
                    f"run 'findmnt {wipe.target}' to see whether it is mounted read-only; without "
                    "the mark it is retired as unused",
                )
            )
        except EphemerootError as error:
            failed.append(error)
        else:
            sys.stdout.write(
                f"{wipe.target}: {'boot-complete' if marked else 'no history to record in'}\n"
            )
    if cut_off.is_possible(arguments.root):
        say = partial(print, flush=True)
        with lock.hold(Path(arguments.root), "ephemeroot boot-complete", wait=say):
            cut_off.end(arguments.root, say)
    for other_failure in failed[1:]:
        terminal.error(other_failure.message, other_failure.hint)
    if failed:
        raise failed[0]
    return 0


def _mark(wipe: Wipe, fresh: dict[str, str]) -> bool:
    """Mark the root mounted at ``wipe.target`` if it matches *fresh*. Returns whether the wiper
    keeps a history.

    A volume can be mounted in a user's directory. The user can rename a parent of it and substitute
    the mount of another new root. So no link is followed, and one file descriptor is both compared
    and marked.
    """
    wiper = wipe.load()
    top = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        root = paths.open_beneath(top, wipe.target.strip("/") or ".", os.O_RDONLY | os.O_DIRECTORY)
    finally:
        os.close(top)
    try:
        mount, path = mountinfo.of(root), os.readlink(f"/proc/self/fd/{root}")
        at_its_place = mount is not None and mount.point == path == wipe.target
        if not at_its_place or not wiper.is_fresh(f"/proc/self/fd/{root}", fresh):
            raise EphemerootError(
                f"cannot mark {wipe.target} as boot-complete: another filesystem is mounted there",
                f"compare the output of 'findmnt {wipe.target}' with 'ephemeroot status'",
            )
        return wiper.mark_boot_complete(root)
    finally:
        os.close(root)


def _made_fresh(record: Path) -> list[tuple[Wipe, dict[str, str]]]:
    """The wipes that the wipe stage of this boot has recorded, each with the identity of its new
    root; empty if there was no wipe.
    """
    try:
        content = documents.parse(documents.read(str(record)))
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise Damaged(f"{record} is damaged: {error}", _REBOOT) from None
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    if not isinstance(content, dict) or content.get("boot-id") != boot_id:
        return []
    found = {key: content[key] for key in sorted(content) if key.startswith("/")}
    if not documents.fits(found, {str: {}}):
        raise Damaged(f"{record} is damaged: its structure is not valid", _REBOOT)
    return [(_wipe(facts), _fresh(record, facts)) for facts in found.values()]


def _wipe(facts: dict[str, Any]) -> Wipe:
    keys = ("target", "wiper", "attribute", "settings")
    values: dict[str, Any] = {key: facts.get(key) for key in keys}
    return Wipe(**values)


def _fresh(record: Path, facts: dict[str, Any]) -> dict[str, str]:
    fresh = facts.get("fresh")
    if not isinstance(fresh, dict) or not documents.fits(fresh, {str: str}):
        raise Damaged(f"{record} is damaged: it does not name the new root", _REBOOT)
    return fresh
