"""mkinitcpio's images: which there are, by its presets, and building one.

Each is built by itself: ``mkinitcpio -P`` would write over all of them first.
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


_ADVICE = Advice(
    absent="run `ephemeroot setup mkinitcpio`; HOOKS in mkinitcpio.conf must name it",
    incomplete="read mkinitcpio's messages",
    kernel_modules="check that they are installed for this kernel",
)


@dataclass(frozen=True)
class Preset(contract.Image):
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
        """Whether it is built for any machine; it does not contain Ephemeroot then."""
        return "autodetect" in " ".join(self.options).replace(",", " ").split()

    @property
    def release(self) -> str:
        """Empty if the preset names the kernel's file."""
        return "" if self.kernel.startswith("/") else self.kernel

    @property
    def advice(self) -> Advice:
        """With mkinitcpio's settings."""
        return _ADVICE

    def describe(self, *, armed: bool) -> str:
        """With the preset's name."""
        what = f"rebuild {self.path} ({self.name})"
        return (
            f"{what} with mkinitcpio, and read it back" if armed else f"{what} without ephemeroot"
        )

    def build(self, path: Path) -> None:
        """Call mkinitcpio."""
        import subprocess

        kind = "-U" if self.unified else "-g"
        command = ["mkinitcpio", "-k", self.kernel, kind, str(path), *self.options]
        if self.config:
            command += ["-c", self.config]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise EphemerootError(
                "the program mkinitcpio is not installed", "install mkinitcpio"
            ) from None
        if done.returncode != 0 or not path.exists():
            said = [line for line in (done.stderr + done.stdout).splitlines() if "ERROR" in line]
            raise EphemerootError(
                f"mkinitcpio could not build {self.path}: "
                + ("; ".join(said[-3:]) or f"exit status {done.returncode}"),
                f"run `{' '.join(command[:3])} {' '.join(self.options)}` to see all of its "
                "messages",
            )

    def read_back(self, fresh: Path, plan: bytes | None) -> str:
        """A fallback image does not contain Ephemeroot, with or without a plan."""
        return _verify_fallback(fresh) if self.is_fallback else super().read_back(fresh, plan)

    def require_bootable(self, fresh: Path) -> None:
        """Programs that sign images may know only those in their places: Secure Boot would refuse
        one without a signature.
        """
        if not self.unified or not unified.is_signed(self.path.read_bytes()):
            return
        if not unified.is_signed(fresh.read_bytes()):
            raise EphemerootError(
                f"the image in place of {self.path} is signed, and the new one is not",
                f"run `mkinitcpio -p` with its preset and sign {self.path} as usual",
            )


def presets(root: Path) -> tuple[list[Preset], list[str]]:
    """All images of all presets; and a line for each that cannot be dealt with."""
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
        raise Damaged(f"{path} is a fallback image, but contains ephemeroot")
    return "a fallback image: it does not contain ephemeroot, so it never wipes"
