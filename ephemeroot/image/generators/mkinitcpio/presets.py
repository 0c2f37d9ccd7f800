"""mkinitcpio's images, by its presets, and building one.

Each image is built separately: ``mkinitcpio -P`` would overwrite all of them before they are read
back.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ephemeroot.errors import Damaged, EphemerootError
from ephemeroot.image import archive, unified
from ephemeroot.image.generators import contract
from ephemeroot.image.readback import Advice
from ephemeroot.image.tree import FOLDER

PRESETS = "etc/mkinitcpio.d"

# A preset is a shell script (mkinitcpio(8)), which sets these fields for each image.
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


_ADVICE = Advice(
    absent="run 'ephemeroot setup mkinitcpio', and add ephemeroot to HOOKS in mkinitcpio.conf",
    incomplete="run 'mkinitcpio -P' and read its messages",
    kernel_modules="check that they are installed for this kernel",
)


@dataclass(frozen=True)
class Preset(contract.Image):
    """One image of one kernel. ``kernel`` is a version or the kernel's file, ``config`` and
    ``options`` are arguments for mkinitcpio, or empty; ``unified``: the image contains the kernel.
    """

    name: str
    path: Path
    kernel: str
    config: str
    options: tuple[str, ...]
    unified: bool = False

    @property
    def is_fallback(self) -> bool:
        """Whether it is built for any machine; such an image does not contain Ephemeroot."""
        return "autodetect" in " ".join(self.options).replace(",", " ").split()

    @property
    def release(self) -> str:
        """The release; empty if the preset names the kernel's file."""
        return "" if self.kernel.startswith("/") else self.kernel

    @property
    def advice(self) -> Advice:
        """The hints that name mkinitcpio's settings."""
        return _ADVICE

    def describe(self, *, armed: bool) -> str:
        """The rebuild, with the name of the preset."""
        what = f"rebuild {self.path} ({self.name})"
        return (
            f"{what} with mkinitcpio, and read it back" if armed else f"{what} without ephemeroot"
        )

    def build(self, path: Path) -> None:
        """Run mkinitcpio."""
        import subprocess

        kind = "-U" if self.unified else "-g"
        command = ["mkinitcpio", "-k", self.kernel, kind, str(path), *self.options]
        if self.config:
            command += ["-c", self.config]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise EphemerootError(
                f"cannot build {self.path}: mkinitcpio is not installed",
                "install mkinitcpio, then run 'ephemeroot apply'",
            ) from None
        if done.returncode != 0 or not path.exists():
            end = contract.last_lines(done.stderr + done.stdout, done.returncode, marked="ERROR")
            raise EphemerootError(
                f"mkinitcpio could not build {self.path}: {end}",
                f"run '{' '.join([*command[:3], *self.options])}' to see all messages",
            )

    def read_back(self, fresh: Path, plan: bytes | None) -> str:
        """Verify that a fallback image does not contain Ephemeroot, with or without a plan."""
        return _verify_fallback(fresh) if self.is_fallback else super().read_back(fresh, plan)

    def require_bootable(self, fresh: Path) -> None:
        """Refuse an unsigned image in place of a signed one, which Secure Boot would not start. A
        signing program may only sign images under their final names.
        """
        if not self.unified or not unified.is_signed(self.path.read_bytes()):
            return
        if not unified.is_signed(fresh.read_bytes()):
            raise EphemerootError(
                f"cannot replace {self.path}: it is signed, and the new image is not",
                f"run 'mkinitcpio -p' with its preset, then sign {self.path} as usual",
            )


def presets(root: Path) -> tuple[list[Preset], list[str]]:
    """All images of all presets, and a line for each preset that is not supported."""
    import subprocess

    found, unknown = [], []
    for file in sorted((root / PRESETS).glob("*.preset")):
        done = subprocess.run(["bash", "-c", _READ, "bash", file], capture_output=True, check=False)
        values = [os.fsdecode(value) for value in done.stdout.split(b"\0")[:-1]]
        if done.returncode != 0 or len(values) % _FIELDS:
            unknown.append(f"{file} is not a readable preset")
            continue
        for start in range(0, len(values), _FIELDS):
            kernel, config, image, uki, name, options = values[start : start + _FIELDS]
            for path, with_kernel in ((image, False), (uki, True)):
                if path:
                    place, words = root / path.lstrip("/"), tuple(options.split())
                    found.append(Preset(name, place, kernel, config, words, with_kernel))
    return found, unknown


def _verify_fallback(path: Path) -> str:
    ours = FOLDER.lstrip("/") + "/"
    if any(name.startswith(ours) for name in archive.read(path, lambda _: False).names):
        raise Damaged(
            f"{path} is a fallback image, but contains ephemeroot",
            "check that its options in the preset skip autodetect",
        )
    return "a fallback image: it does not contain ephemeroot, so it never wipes"
