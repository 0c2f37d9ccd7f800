"""``ephemeroot lived``: record that this boot was complete (called by a unit)."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

from ephemeroot.base import cut_off
from ephemeroot.cli import access
from ephemeroot.errors import Damaged, EphemerootError
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.stage import RUN, WIPED
from ephemeroot.linux import documents
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
    for wipe in _made_fresh(Path(RUN, WIPED)):
        try:
            marked = wipe.load().mark_lived(wipe.target)
        except OSError as error:
            raise EphemerootError(
                f"cannot mark {wipe.target} as lived: {error.strerror}",
                "its root will be retired as unused; is it mounted read-only?",
            ) from error
        sys.stdout.write(f"{wipe.target}: {'lived' if marked else 'keeps no history'}\n")
    if cut_off.is_possible(arguments.root):
        say = partial(print, flush=True)
        with lock.hold(Path(arguments.root), "ephemeroot lived", wait=say):
            cut_off.end(arguments.root, say)
    return 0


def _made_fresh(record: Path) -> list[Wipe]:
    """What this boot's wipe stage has recorded, nothing if there was none."""
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
        raise Damaged(f"{record} is damaged: it has another form")
    return [_wipe(facts) for facts in found.values()]


def _wipe(facts: dict[str, Any]) -> Wipe:
    keys = ("target", "wiper", "attribute", "settings")
    values: dict[str, Any] = {key: facts.get(key) for key in keys}
    return Wipe(**values)
