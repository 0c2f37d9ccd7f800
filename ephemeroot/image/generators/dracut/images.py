"""dracut's images: which there are, building one anew, and reading it back.

An image is built beside the old one, read back, and only then takes its name: whatever
fails, the machine still has the image that it had.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from ephemeroot.errors import EphemerootError
from ephemeroot.image import readback
from ephemeroot.linux import documents

# Where dracut and the distributions put a kernel's image ({} is its version); with a
# machine-id, the Boot Loader Specification's places (dracut.sh, "outfile").
_PLACES = (
    "boot/initrd.img-{}",
    "boot/initramfs-{}.img",
    "boot/initrd-{}",
    "boot/initramfs-{}",
    "lib/modules/{}/initrd",
)
_MACHINE_PLACES = ("boot/{id}/{}/initrd", "boot/efi/{id}/{}/initrd", "efi/{id}/{}/initrd")
_UNIFIED = ("boot/EFI/Linux", "boot/efi/EFI/Linux", "efi/EFI/Linux")


@dataclass(frozen=True)
class Image:
    """An image file of a kernel."""

    path: Path
    kernel: str


def kernels(root: Path) -> list[str]:
    """The installed kernels, by dracut's own measure: they have a modules.dep."""
    folder = root / "lib/modules"
    if not folder.is_dir():
        return []
    found = [f for f in folder.iterdir() if any(f.glob("modules.dep*"))]
    return sorted(f.name for f in found)


def images(root: Path) -> tuple[list[Image], list[str]]:
    """All images of all installed kernels, rescue images left out; and a line for each
    kernel or image that cannot be dealt with.
    """
    try:
        machine = documents.read(f"{root}/etc/machine-id", 64).decode("ascii", "replace").strip()
    except OSError:
        machine = ""
    found, unknown = [], []
    for kernel in kernels(root):
        places = [place.format(kernel) for place in _PLACES]
        if machine:
            places += [place.format(kernel, id=machine) for place in _MACHINE_PLACES]
        mine = [Image(root / place, kernel) for place in places if (root / place).is_file()]
        together = unified(root, kernel)
        unknown += [f"{path} is a unified image, with more in it than dracut" for path in together]
        if not mine and not together:
            unknown.append(f"the kernel {kernel} has no initramfs image in {root / 'boot'}")
        found += mine
    return found, unknown


def unified(root: Path, kernel: str) -> list[Path]:
    """The unified images of *kernel*, whoever made them and signs them."""
    return [p for folder in _UNIFIED for p in (root / folder).glob(f"*{kernel}*.efi")]


def rebuild(image: Image, plan: bytes | None) -> str:
    """Build *image* anew and put it in place once it has been read back: with *plan* in it,
    or nothing of ephemeroot if that is ``None``.

    Returns what was verified. Raises ``EphemerootError``; the old image is then untouched.
    """
    fresh = image.path.with_name(f".{image.path.name}.ephemeroot-new")
    try:
        _build(fresh, image.kernel)
        size = fresh.stat().st_size
        verified = readback.verify_without(fresh) if plan is None else readback.verify(fresh, plan)
        fresh.chmod(image.path.stat().st_mode & 0o7777)
        readback.put_in_place(fresh, image.path)
    finally:
        fresh.unlink(missing_ok=True)
    return f"{verified}; {size / 1e6:.1f} MB"


def _build(path: Path, kernel: str) -> None:
    try:
        done = subprocess.run(
            ["dracut", "--force", str(path), kernel], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise EphemerootError("the program dracut is not installed", "install dracut") from None
    if done.returncode != 0 or not path.exists():
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        tail = "; ".join(said[-3:]) or f"exit status {done.returncode}"
        raise EphemerootError(
            f"dracut could not build the image of {kernel}: {tail}",
            f"run `dracut --force {path.parent}/IMAGE {kernel}` to see all it says",
        )
