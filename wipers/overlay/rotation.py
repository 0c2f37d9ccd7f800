"""The rotation of the layers on a volume: hand over, retire, make again, mount, prune."""

from __future__ import annotations

import os
import time

from ephemeroot.wipers.overlay import stack, uppers
from ephemeroot.wipers.overlay.previous import INSTALLED, LAYER, find
from ephemeroot.wipers.rotation import Rotation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from ephemeroot.wipers.contract import Boot, Outcome
    from ephemeroot.wipers.names import Name
    from ephemeroot.wipers.oldroot import OldRoot
    from ephemeroot.wipers.overlay.history import UpperHistory
    from ephemeroot.wipers.overlay.uppers import Uppers
    from ephemeroot.wipers.placement import Places
    from ephemeroot.wipers.pruning import Pruning

    Made = TypeVar("Made")


class LayerRotation(Rotation):
    """One rotation of the *layers* of *history*, with *pruning* at its end.

    *below* is where the installed root is mounted, *volume* what messages call the place of the
    layers; *places* are for further mounts.
    """

    NO_SPACE = "no space for a new layer: old layers that are due are deleted first"
    BOOTS = False  # without a wipe it is the installed root, with no layer

    __slots__ = ("above", "below", "layers", "places", "volume")
    history: UpperHistory

    def __init__(
        self,
        boot: Boot,
        history: UpperHistory,
        pruning: Pruning,
        layers: Uppers,
        *,
        places: Places,
        below: str,
        volume: str,
    ) -> None:
        super().__init__(boot, history, pruning)
        self.layers = layers
        self.places = places
        self.below = below
        self.volume = volume
        self.above = ""

    def run(self) -> Outcome:
        """Rotate. See ``Wiper.wipe`` for the errors and the state after them."""
        self.above = self.places.attach(self.layers.mount(), "layers")
        system, take = self.boot.system, not self.boot.dry_run
        self._change(lambda: self.layers.require_own(system, take=take))
        layer = self.layers.present()
        name = self.name(unused=layer is None or not layer.complete)
        name = self.hand_over(name)
        if self.boot.dry_run:
            return self.outcome
        if layer is not None:
            self.outcome.retired = self._make_room(
                lambda: self.layers.retire(name, self.history.free)
            )
        made = self._make()
        fresh = stack.mount_root(self.boot, self.places, self.below, self.above)
        self.outcome.fresh = {**fresh, LAYER: made}
        self.finish()
        return self.outcome

    def show(self, entry: OldRoot | None, give: Callable[[str], bool]) -> bool:
        layer = uppers.UPPER if entry is None else f"{uppers.OLD}/{entry.text}"
        # Upper layers have no colons in their names, and the rest of the path is ours.
        options = [*stack.OPTIONS, f"lowerdir={self.above}/{layer}:{self.below}", "ro"]
        path = self.places.attach(stack.mount(options), "previous")
        if self.boot.dry_run:  # that it can be mounted is a proof; the rest changes something
            self.boot.describe_hand_over()
            return False
        self.shown = (f"{self.above}/{layer}", self.below)
        return give(path)

    def is_full(self, error: Exception) -> bool:
        return isinstance(error, OSError) and error.errno in uppers.NO_SPACE

    def hand_over(self, name: Name) -> Name:
        """Seed the stores from the root of the boot before: the present layer, an old one, or the
        installed root if that was kept. Returns *name*, with ``.keep`` if the present layer must be
        kept; an old one that must be has its mark durably before another is retired.
        """
        previous = find(self.boot.booted, self.boot.device, self.layers, self.history)
        if previous.kind == INSTALLED:
            self._hand_over_installed()
        elif previous.kind == LAYER:
            name = self.hand_over_from(previous.entry, name)
            self._change(self.history.commit)
        return name

    def _hand_over_installed(self) -> None:
        """Seed from the installed root, which is never retired."""
        if self.boot.dry_run:
            self.boot.describe_hand_over()
        else:
            self.boot.hand_over(self.below, True)

    def prune(self) -> None:
        """The same, after what earlier boots had no time for, and within one budget."""
        deadline = time.monotonic() + self.boot.budget
        self.outcome.problems += self.layers.clean(deadline)
        super().prune()

    def _make(self) -> str:
        """Make a new layer, with the attributes of the installed root's directory."""
        pattern = os.open(self.below, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return self._make_room(lambda: self.layers.make(pattern, self.boot.now))
        finally:
            os.close(pattern)

    def _make_room(self, make: Callable[[], Made]) -> Made:
        """As ``_change``; without space for *make* prune the layers that are due, once, and call it
        again.
        """
        return self._change(lambda: self.with_room(make))

    def _change(self, make: Callable[[], Made]) -> Made:
        """What *make* returns, which changes the volume; a failure names that."""
        try:
            return make()
        except OSError as error:
            raise uppers.failed(self.volume, error) from error
