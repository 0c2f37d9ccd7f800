"""The implementation of the generator contract for mkinitcpio."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Collection
from pathlib import Path

from ephemeroot.hooks.plan import Plan
from ephemeroot.image import data, installation
from ephemeroot.image.generators import contract
from ephemeroot.image.generators.mkinitcpio import configuration, presets
from ephemeroot.image.generators.mkinitcpio.target import MkinitcpioTarget
from ephemeroot.image.installation import Item

_INITCPIO = "/usr/lib/initcpio"
_OURS = f"{_INITCPIO}/ephemeroot"


class Mkinitcpio(contract.Generator):
    """mkinitcpio (mkinitcpio(8))."""

    NAME = "mkinitcpio"
    PROGRAM = "mkinitcpio"
    PLACES = ("usr/bin/mkinitcpio",)
    MODULE = "usr/lib/initcpio/install/ephemeroot"
    FOLDERS = (_OURS,)

    def installation(self, has: Callable[[str], bool]) -> str:
        """The distribution's package."""
        return "pacman -S mkinitcpio" if has("usr/bin/pacman") else "# install mkinitcpio"

    def rebuilding(self, has: Callable[[str], bool]) -> str:
        """Build the images of all presets."""
        del has
        return "mkinitcpio -P"

    def items(self, program: str) -> list[Item]:
        """The install hook and the run-time hook."""
        source = data.folder("mkinitcpio")
        hook, install = source / "hooks/ephemeroot", source / "install/ephemeroot"
        return [
            *installation.for_module(_OURS, program),
            Item(f"{_INITCPIO}/hooks/ephemeroot", hook.read_bytes()),
            Item(f"{_INITCPIO}/install/ephemeroot", install.read_bytes(), 0o755),
        ]

    def images(self, root: Path) -> tuple[list[contract.Image], list[str]]:
        """One image for each preset."""
        found, unknown = presets.presets(root)
        return [*found], unknown

    def files(self, root: Path) -> list[Path]:
        """The images, except fallback images, which do not contain Ephemeroot."""
        return [preset.path for preset in presets.presets(root)[0] if not preset.is_fallback]

    def enabling(self, root: Path) -> list[str]:
        """Add our hook to HOOKS."""
        return configuration.enabling(root, presets.presets(root)[0])

    def omissions(self, root: Path) -> list[contract.Omission]:
        """HOOKS that lack our hook."""
        return configuration.omissions(root, presets.presets(root)[0])

    def missing(
        self, root: str, types: Collection[str], plan: Plan | None
    ) -> list[contract.Missing]:
        """OpenZFS's hook, which is in the repository archzfs."""
        del plan
        places = (f"{root}{_INITCPIO}/install/{name}" for name in ("zfs", "sd-zfs"))
        if "zfs" not in types or any(os.path.lexists(place) for place in places):
            return []
        reason = "mkinitcpio's hook zfs is not installed"
        return [contract.Missing(reason, "# install zfs-utils (archzfs)")]

    def declare(self, parser: argparse.ArgumentParser) -> None:
        """The options that the install hook uses."""
        parser.add_argument(
            "--hooks", metavar="HOOKS", help="instead of --init, mkinitcpio's hooks for this image"
        )
        parser.add_argument(
            "--configured-hooks", metavar="HOOKS", help="HOOKS as mkinitcpio.conf has them"
        )

    def is_caller(self, arguments: argparse.Namespace) -> bool:
        """Whether ``--hooks`` is given."""
        return arguments.hooks is not None

    def target(self, arguments: argparse.Namespace) -> MkinitcpioTarget:
        """The target for ``--hooks`` and ``--configured-hooks``."""
        return MkinitcpioTarget(
            (arguments.hooks or "").split(), (arguments.configured_hooks or "").split()
        )
