"""HOOKS as mkinitcpio will read them: without our hook, an image has nothing of ours."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ephemeroot.errors import Misconfigured
from ephemeroot.image.generators.contract import NONE, Omission
from ephemeroot.image.generators.mkinitcpio import hooks
from ephemeroot.image.generators.mkinitcpio.presets import Preset

CONFIG = "/etc/mkinitcpio.conf"
DROP_INS = "/etc/mkinitcpio.conf.d"

# The configuration is shell (mkinitcpio.conf(5)).
_READ = 'for file; do . "$file" || exit; done; printf "%s\\0" "${HOOKS[@]}"'


def omissions(root: Path, found: Sequence[Preset]) -> list[Omission]:
    """The configurations of the presets *found* below *root* that leave our hook out, or have it in
    the wrong place. Fallback images have nothing of ours.
    """
    lines: dict[Omission, None] = {}
    for preset in found:
        if preset.is_fallback:
            continue
        config = preset.config or CONFIG
        words = _hooks(root, config, drop_ins=not preset.config)
        place = str(root / config.lstrip("/"))
        if words is None:
            lines[Omission(place, "mkinitcpio's configuration cannot be read", "repair it")] = None
            continue
        words = _with_options(words, preset.options)
        reason, hint = f"HOOKS lacks {hooks.NAME}: the images have nothing of it and never wipe", ""
        if hooks.NAME not in words:
            init = () if hooks.init(words) != NONE else ("base", "udev")
            hint = f"write {hooks.line((*init, *words))}"
        else:
            try:
                hooks.require_order(words)
                continue
            except Misconfigured as error:
                reason, hint = error.message, error.hint
        lines[Omission(place, reason, hint)] = None
    return list(lines)


def _hooks(root: Path, config: str, *, drop_ins: bool) -> list[str] | None:
    """HOOKS in *config* below *root*, ``None`` if it cannot be read. A configuration that a preset
    names stands alone (mkinitcpio(8), ``--config``).
    """
    files = [root / config.lstrip("/")]
    if drop_ins or config == CONFIG:
        files += sorted((root / DROP_INS.lstrip("/")).glob("*.conf"))
    done = subprocess.run(["bash", "-c", _READ, "bash", *files], capture_output=True, check=False)
    if done.returncode != 0:
        return None
    return [word for word in os.fsdecode(done.stdout).split("\0") if word]


def _with_options(words: list[str], options: Sequence[str]) -> list[str]:
    """*words* as the *options* of a preset change them (mkinitcpio(8), ``-A`` and ``-S``)."""
    kept = list(words)
    given = iter(options)
    for option in given:
        name, equals, value = option.partition("=")
        if name in ("-A", "--addhooks", "-S", "--skiphooks"):
            listed = (value if equals else next(given, "")).split(",")
            if name in ("-A", "--addhooks"):
                kept += listed
            else:
                kept = [word for word in kept if word not in listed]
    return kept
