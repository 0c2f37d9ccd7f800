"""What a root that is an overlay is made of, for seeding: the overlay does not show all of it."""

from __future__ import annotations

import os

from ephemeroot.errors import EphemerootError
from ephemeroot.hooks import tree
from ephemeroot.hooks.stage import WIPED
from ephemeroot.linux import paths
from ephemeroot.linux.layers import Layers
from ephemeroot.wipers.history import Installed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.stage import Stage


def open_layers(upper: str, lower: str) -> Layers:
    """The layers of the root that is handed over, by their paths; ``close_layers`` them."""
    fd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return Layers(fd, os.open(lower, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except BaseException:
        os.close(fd)
        raise


def close_layers(layers: Layers) -> None:
    """Close what ``open_layers`` has opened."""
    os.close(layers.upper)
    os.close(layers.lower)


def of(stage: Stage, path: str) -> Layers | None:
    """The layers of *path* in the root that is handed over; ``None`` if that is not an overlay, or
    if *path* is not in it by that name.
    """
    if stage.layers is None:
        return None
    try:
        os.close(paths.open_beneath(stage.layers.lower, path.strip("/") or ".", tree.DIRECTORY))
    except OSError:
        return None
    return stage.layers.at(path)


def below(stage: Stage, root: int) -> int:
    """The open root from which to seed instead of the open *root*: a new layer has no
    content, so paths are seeded from the installed root under it.
    """
    if stage.layers is not None or root not in (stage.root_fd(), stage.bare_fd()):
        return root
    wipe = stage.plan.root_wipe()
    facts = (stage.recall(WIPED) or {}).get("/")
    if wipe is None or not isinstance(facts, dict):
        return root
    if stage.below < 0:
        wiper = wipe.load()
        if not wiper.LAYERED:
            return root
        installed = Installed(
            device=str(facts.get("device")),
            private=stage.private("wiper"),
            live=stage.target,
            root_flags=stage.cmdline.root_flags(),
        )
        try:
            stage.below = wiper.mount_below(installed)
        except (EphemerootError, OSError):
            return root  # what the overlay shows is seeded, and what it cannot show is reported
    return stage.below
