"""HOOKS in mkinitcpio's configuration: without our hook, images do not contain Ephemeroot."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from ephemeroot.errors import Misconfigured
from ephemeroot.image.generators.contract import NONE, Omission
from ephemeroot.image.generators.mkinitcpio import hooks
from ephemeroot.image.generators.mkinitcpio.presets import Preset

CONFIG = "/etc/mkinitcpio.conf"
DROP_INS = "/etc/mkinitcpio.conf.d"

# The configuration is a shell script (mkinitcpio.conf(5)).
_WHOLE = re.compile(r"HOOKS=\([^()#]*\)")
_READ = 'for file; do . "$file" || exit; done; printf "%s\\0" "${HOOKS[@]}"'


def omissions(root: Path, found: Sequence[Preset]) -> list[Omission]:
    """The configurations of the presets *found* at *root* that lack our hook or have it in the
    wrong place. Fallback images do not need it: they do not contain Ephemeroot.
    """
    lines: dict[Omission, None] = {}
    for config, words in _configured(root, found):
        place = str(root / config.lstrip("/"))
        if words is None:
            reason = "cannot read mkinitcpio's configuration: bash reports an error"
            lines[Omission(place, reason, f"run 'bash -n {place}'")] = None
            continue
        reason, line = _fault(words)
        if reason:
            lines[Omission(place, reason, line and f"write {line}")] = None
    return list(lines)


def enabling(root: Path, found: Sequence[Preset]) -> list[str]:
    """The commands that add our hook to HOOKS in each such configuration, in the right place."""
    commands: dict[str, None] = {}
    configured = _configured(root, found) or [(CONFIG, _hooks(root, CONFIG, drop_ins=True))]
    for config, words in configured:
        if words is None:
            continue
        reason, line = _fault(words)
        if reason and line:
            commands[_written(root, config, line)] = None
    return list(commands)


def _configured(root: Path, found: Sequence[Preset]) -> list[tuple[str, list[str] | None]]:
    """Each configuration, with the HOOKS of a preset that uses it."""
    result: list[tuple[str, list[str] | None]] = []
    for preset in found:
        if preset.is_fallback:
            continue
        config = preset.config or CONFIG
        words = _hooks(root, config, drop_ins=not preset.config)
        result.append((config, None if words is None else _with_options(words, preset.options)))
    return result


def _fault(words: Sequence[str]) -> tuple[str, str]:
    """The fault in HOOKS and the corrected line; both empty if there is none."""
    if hooks.NAME not in words:
        init = () if hooks.init(words) != NONE else ("base", "udev")
        reason = f"HOOKS lacks {hooks.NAME}: the images do not contain ephemeroot and never wipe"
        return reason, hooks.line((*init, *words))
    try:
        hooks.require_order(words)
    except Misconfigured as error:
        return error.message, error.hint.removeprefix("write ")
    return "", ""


def _written(root: Path, config: str, line: str) -> str:
    """The command that makes *line* take effect: it replaces the only assignment of HOOKS, or
    appends another one, which takes precedence in a shell script.
    """
    files = [config]
    if config == CONFIG:
        files += [f"{DROP_INS}/{p.name}" for p in sorted((root / DROP_INS[1:]).glob("*.conf"))]
    assigned = [
        (file, text.rstrip())
        for file in files
        for text in (root / file.lstrip("/")).read_text(errors="replace").splitlines()
        if text.lstrip().startswith("HOOKS")
    ]
    if len(assigned) == 1 and _WHOLE.fullmatch(assigned[0][1]):
        return f"sed -i {shlex.quote(f's|^HOOKS=.*|{line}|')} {shlex.quote(assigned[0][0])}"
    return f"echo {shlex.quote(line)} >> {shlex.quote(files[-1])}"


def _hooks(root: Path, config: str, *, drop_ins: bool) -> list[str] | None:
    """HOOKS in *config* at *root*; ``None`` if it cannot be read. A configuration that a preset
    names is read without drop-ins (mkinitcpio(8), ``--config``).
    """
    import subprocess

    files = [root / config.lstrip("/")]
    if drop_ins or config == CONFIG:
        files += sorted((root / DROP_INS.lstrip("/")).glob("*.conf"))
    done = subprocess.run(["bash", "-c", _READ, "bash", *files], capture_output=True, check=False)
    if done.returncode != 0:
        return None
    return [word for word in os.fsdecode(done.stdout).split("\0") if word]


def _with_options(words: list[str], options: Sequence[str]) -> list[str]:
    """*words* after the *options* of a preset are applied (mkinitcpio(8), ``-A`` and ``-S``)."""
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
