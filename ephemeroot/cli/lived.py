"""``ephemeroot lived``: record that this boot was complete (called by a unit)."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ephemeroot.errors import Damaged, EphemerootError
from ephemeroot.hooks.stage import RUN
from ephemeroot.hooks.wipe import WIPED, Wipe
from ephemeroot.image import applied

NAME = "lived"
HELP = "record that this boot was complete (called by ephemeroot-lived.service)"


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb has no arguments of its own."""


def run(arguments: argparse.Namespace) -> int:
    """Mark every root and volume that this boot has made fresh; a kept one already is."""
    for wipe in _made_fresh(Path(RUN, WIPED)):
        try:
            marked = wipe.load().mark_lived(wipe.target)
        except OSError as error:
            raise EphemerootError(
                f"cannot mark {wipe.target} as lived: {error.strerror}",
                "its root will be retired as unused; is it mounted read-only?",
            ) from error
        sys.stdout.write(f"{wipe.target}: {'lived' if marked else 'keeps no history'}\n")
    _recover_base(arguments.root)
    return 0


def _recover_base(root: str) -> None:
    """Put back what a ``base run`` changed that a power cut ended."""
    plan = applied.load(Path(root))
    wipes = [o for o in plan.wipe if isinstance(o, Wipe) and o.target == "/"] if plan else []
    if not any(o.wiper == "btrfs" and o.settings.get("base") for o in wipes):
        return
    # Only here: most machines' boots need nothing of it.
    from ephemeroot.base import change
    from ephemeroot.base.place import Place, opened
    from ephemeroot.cli import histories
    from ephemeroot.linux.namespace import Namespace
    from ephemeroot.wipers.btrfs import Btrfs

    for keeper in histories.keepers(root, "/"):
        assert isinstance(keeper.wiper, Btrfs)
        place = Place.of(keeper.wiper, keeper.device, keeper.subvolume)
        with Namespace() as private, opened(place, private, writable=True) as found:
            change.recover(found, lambda line: print(line, flush=True))


def _made_fresh(record: Path) -> list[Wipe]:
    """What this boot's wipe stage has recorded, nothing if there was none."""
    try:
        content = json.loads(record.read_bytes())
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise Damaged(f"{record} is damaged: {error}") from None
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    if not isinstance(content, dict) or content.get("boot-id") != boot_id:
        return []
    return [_wipe(content[key]) for key in sorted(content) if key.startswith("/")]


def _wipe(facts: dict[str, Any]) -> Wipe:
    keys = ("target", "wiper", "attribute", "settings")
    return Wipe(**{key: facts.get(key) for key in keys})
