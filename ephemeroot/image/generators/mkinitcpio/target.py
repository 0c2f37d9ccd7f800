"""An image that mkinitcpio is building, known by its HOOKS."""

from __future__ import annotations

from collections.abc import Sequence

from ephemeroot.hooks.plan import Plan
from ephemeroot.image import nics
from ephemeroot.image.contents import MOUNTS_ROOT, Contents, Script
from ephemeroot.image.generators.contract import Target
from ephemeroot.image.generators.mkinitcpio import hooks
from ephemeroot.wipers.contract import Wiper

# ``runscript``: mkinitcpio's add_runscript, which adds the hook of the same name.
_HOOK = Script(line="runscript", end="/hooks/ephemeroot", title="hook ephemeroot")


class MkinitcpioTarget(Target):
    """An image with these *words* in HOOKS; mkinitcpio.conf has *configured*."""

    def __init__(self, words: Sequence[str], configured: Sequence[str] = ()) -> None:
        self.init = hooks.init(words)
        self.words = words
        self.configured = configured

    @property
    def systemd_advice(self) -> str:
        """The hook that adds systemd."""
        return "build it with mkinitcpio's hook systemd"

    def exemption(self) -> str:
        """Why nothing is added to a fallback image: it is kept for recovery."""
        is_fallback = hooks.is_fallback(self.words, self.configured)
        return "a fallback image never wipes" if is_fallback else ""

    def require(self) -> None:
        """Raise ``Misconfigured``, with the corrected line, if the wipe would run too early."""
        hooks.require_order(self.words)

    def add(self, contents: Contents, root: Wiper | None) -> None:
        """Add the hook for mkinitcpio's own init, and a mark if the wiper mounts the root."""
        if self.init != hooks.SHELL:
            return
        contents.scripts.append(_HOOK)
        if root is not None and root.MOUNTS_ROOT:
            contents.tree.write(MOUNTS_ROOT, "", why="mounted by the wiper")

    def add_inert(self, contents: Contents) -> None:
        """Add the hook for mkinitcpio's own init."""
        if self.init == hooks.SHELL:
            contents.scripts.append(_HOOK)

    def warnings(self, plan: Plan) -> list[str]:
        """A warning if HOOKS do not set up the network that a volume needs."""
        if not nics.is_needed(plan) or nics.is_static(plan) or hooks.sets_up_network(self.words):
            return []
        problem = "a volume is on the network, but HOOKS contains no network hook"
        return [f"{problem}: add net before {hooks.NAME}, or write [network]"]
