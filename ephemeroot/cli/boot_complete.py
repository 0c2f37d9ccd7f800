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


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb has no arguments of its own."""
    access.declare(parser, "the new roots of this boot, and the filesystem of the base")


def run(arguments: argparse.Namespace) -> int:
    """Mark every root and volume that this boot has made fresh; a kept one already is."""
    other = foreign.of_boot(Path(arguments.root))
    if other is not None:
        sys.stdout.write(f"nothing is recorded: {other.message}\n")
        return 0
    failed: list[EphemerootError] = []
    for wipe, fresh in _made_fresh(Path(RUN, WIPED)):
        try:
            marked = _mark(wipe, fresh)
        except OSError as error:
            failed.append(
                EphemerootError(
                    f"cannot mark {wipe.target} as boot-complete: {error.strerror}",
                    "its root will be retired as unused; check that it is not mounted read-only",
                )
            )
        except EphemerootError as error:
            failed.append(error)
        else:
            sys.stdout.write(
                f"{wipe.target}: {'boot-complete' if marked else 'keeps no history'}\n"
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
    """Mark the root that is mounted at ``wipe.target``, if it is the one that *fresh* describes.
    Whether the wiper keeps a history.

    A volume can be mounted in a directory of a user, who can rename what leads there and put the
    mount of another new root in its place: no link is followed, and what is compared is what is
    marked.
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
                f"the mount at {wipe.target} is not the root that this boot has made fresh",
                f"run 'findmnt {wipe.target}' and compare with 'ephemeroot status'",
            )
        return wiper.mark_boot_complete(root)
    finally:
        os.close(root)


def _made_fresh(record: Path) -> list[tuple[Wipe, dict[str, str]]]:
    """What this boot's wipe stage has recorded, and how each new root can be recognised. Empty if
    there was no wipe.
    """
    try:
        content = documents.parse(documents.read(str(record)))
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise Damaged(f"{record} is damaged: {error}") from None
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    if not isinstance(content, dict) or content.get("boot-id") != boot_id:
        return []
    found = {key: content[key] for key in sorted(content) if key.startswith("/")}
    if not documents.fits(found, {str: {}}):
        raise Damaged(f"{record} is damaged: its structure is not valid")
    return [(_wipe(facts), _fresh(record, facts)) for facts in found.values()]


def _wipe(facts: dict[str, Any]) -> Wipe:
    keys = ("target", "wiper", "attribute", "settings")
    values: dict[str, Any] = {key: facts.get(key) for key in keys}
    return Wipe(**values)


def _fresh(record: Path, facts: dict[str, Any]) -> dict[str, str]:
    fresh = facts.get("fresh")
    if not isinstance(fresh, dict) or not documents.fits(fresh, {str: str}):
        raise Damaged(f"{record} is damaged: it does not name the new root")
    return fresh
