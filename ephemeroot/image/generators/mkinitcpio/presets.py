"""mkinitcpio's images: which there are, by its presets, and building one anew.

As with dracut's, an image is built beside the old one, read back, and only then takes its
name (``mkinitcpio -P`` would write over all of them first).
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ephemeroot.errors import Damaged, EphemerootError
from ephemeroot.image import archive, readback, unified
from ephemeroot.image.tree import FOLDER

PRESETS = "etc/mkinitcpio.d"

# A preset is shell, and so is what it may say (mkinitcpio(8)): seven fields for each image.
_READ = """
. "$1" || exit
for preset in "${PRESETS[@]}"; do
    for field in kver config image uki; do
        name=${preset}_$field all=ALL_$field
        printf '%s\\0' "${!name:-${!all}}"
    done
    declare -n options=${preset}_options
    printf '%s\\0' "$preset" "${options[*]}"
done
"""
_FIELDS = 6


@dataclass(frozen=True)
class Preset:
    """One image of one kernel. ``kernel`` is a version or the kernel's file, ``config`` and
    ``options`` are empty or what mkinitcpio is called with; ``unified``: with the kernel in it.
    """

    name: str
    path: Path
    kernel: str
    config: str
    options: tuple[str, ...]
    unified: bool = False

    @property
    def is_fallback(self) -> bool:
        """Whether it is built for any machine; it has nothing of ours then."""
        return "autodetect" in " ".join(self.options).replace(",", " ").split()


def presets(root: Path) -> tuple[list[Preset], list[str]]:
    """All images of all presets; and a line for each that cannot be dealt with."""
    found, unknown = [], []
    for file in sorted((root / PRESETS).glob("*.preset")):
        done = subprocess.run(["bash", "-c", _READ, "bash", file], capture_output=True, check=False)
        values = [os.fsdecode(value) for value in done.stdout.split(b"\0")[:-1]]
        if done.returncode != 0 or len(values) % _FIELDS:
            unknown.append(f"{file} is no preset that can be read")
            continue
        for start in range(0, len(values), _FIELDS):
            kernel, config, image, uki, name, options = values[start : start + _FIELDS]
            for path, with_kernel in ((image, False), (uki, True)):
                if path:
                    place, words = root / path.lstrip("/"), tuple(options.split())
                    found.append(Preset(name, place, kernel, config, words, with_kernel))
    return found, unknown


def rebuild(preset: Preset, plan: bytes | None) -> str:
    """Build its image anew and put it in place once it has been read back: with *plan* in it,
    or nothing of ephemeroot if that is ``None``.

    Returns what was verified. Raises ``EphemerootError``; the old image is then untouched.
    """
    fresh = preset.path.with_name(f".{preset.path.name}.ephemeroot-new")
    try:
        _build(preset, fresh)
        size = fresh.stat().st_size
        if preset.is_fallback:
            verified = _verify_fallback(fresh)
        elif plan is None:
            verified = readback.verify_without(fresh)
        else:
            verified = readback.verify(fresh, plan)
        if preset.path.exists():
            _require_as_signed(preset, fresh)
            fresh.chmod(preset.path.stat().st_mode & 0o7777)
        readback.put_in_place(fresh, preset.path)
    finally:
        fresh.unlink(missing_ok=True)
    return f"{verified}; {size / 1e6:.1f} MB"


def _build(preset: Preset, path: Path) -> None:
    kind = "-U" if preset.unified else "-g"
    command = ["mkinitcpio", "-k", preset.kernel, kind, str(path), *preset.options]
    if preset.config:
        command += ["-c", preset.config]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise EphemerootError(
            "the program mkinitcpio is not installed", "install mkinitcpio"
        ) from None
    if done.returncode != 0 or not path.exists():
        said = [line for line in (done.stderr + done.stdout).splitlines() if "ERROR" in line]
        raise EphemerootError(
            f"mkinitcpio could not build {preset.path}: "
            + ("; ".join(said[-3:]) or f"exit status {done.returncode}"),
            f"run `{' '.join(command[:3])} {' '.join(preset.options)}` to see all it says",
        )


def _require_as_signed(preset: Preset, fresh: Path) -> None:
    """Whoever signs images may know only those in their places: Secure Boot would not boot this."""
    if not preset.unified or not unified.is_signed(preset.path.read_bytes()):
        return
    if not unified.is_signed(fresh.read_bytes()):
        raise EphemerootError(
            f"the image in place of {preset.path} is signed, and the new one is not",
            f"run `mkinitcpio -p` with its preset and sign {preset.path} as ever",
        )


def _verify_fallback(path: Path) -> str:
    ours = FOLDER.lstrip("/") + "/"
    if any(name.startswith(ours) for name in archive.read(path, lambda _: False).names):
        raise Damaged(f"{path} is a fallback image and has something of ephemeroot in it")
    return "a fallback image: nothing of ephemeroot in it, so it never wipes"
