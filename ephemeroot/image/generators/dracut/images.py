"""dracut's images: which there are, and building one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ephemeroot.errors import EphemerootError
from ephemeroot.image.generators import contract
from ephemeroot.image.readback import Advice
from ephemeroot.linux import documents

# Where dracut and the distributions put a kernel's image ({} is its version).
_PLACES = (
    "boot/initrd.img-{}",
    "boot/initramfs-{}.img",
    "boot/initrd-{}",
    "boot/initramfs-{}",
    "boot/firmware/initrd.img-{}",
    "lib/modules/{}/initrd",
)
# The filesystems of the Boot Loader Specification: images are in TOKEN/VERSION there, as dracut
# itself (dracut.sh, "outfile") and kernel-install put them: 90-loaderentry.install copies `initrd`,
# or under its own name what a distribution's hook has built in /boot.
_BOOT = ("boot", "boot/efi", "efi")
# What the firmware of a Raspberry Pi starts: copies without a release in their names, each for the
# kernel beside it (raspi-firmware's z50-raspi-firmware; flash-kernel on Ubuntu).
_FIRMWARE = ("boot/firmware", "boot")
_BESIDE = {
    "initramfs": "kernel.img",
    "initramfs7": "kernel7.img",
    "initramfs7l": "kernel7l.img",
    "initramfs8": "kernel8.img",
    "initramfs_2712": "kernel_2712.img",
    "initrd.img": "vmlinuz",
}
_UNIFIED = ("boot/EFI/Linux", "boot/efi/EFI/Linux", "efi/EFI/Linux")


_ADVICE = Advice(
    absent="run `ephemeroot setup dracut`; dracut.conf's omit_dracutmodules must not name it",
    incomplete="read dracut's messages",
    kernel_modules="check that they are installed for this kernel, and not in dracut's "
    "omit_drivers",
)


@dataclass(frozen=True)
class Image(contract.Image):
    """An image file of a kernel."""

    path: Path
    kernel: str

    @property
    def release(self) -> str:
        """dracut names images after it."""
        return self.kernel

    @property
    def advice(self) -> Advice:
        """With dracut's settings."""
        return _ADVICE

    def describe(self, *, armed: bool) -> str:
        """With the kernel that it is for."""
        what = f"rebuild {self.path} for the kernel {self.kernel}"
        return f"{what}, and read it back" if armed else f"{what} without ephemeroot"

    def build(self, path: Path) -> None:
        """Call dracut."""
        import subprocess

        try:
            done = subprocess.run(
                ["dracut", "--force", str(path), self.kernel],
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError:
            raise EphemerootError("the program dracut is not installed", "install dracut") from None
        if done.returncode != 0 or not path.exists():
            said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
            tail = "; ".join(said[-3:]) or f"exit status {done.returncode}"
            raise EphemerootError(
                f"dracut could not build the image of {self.kernel}: {tail}",
                f"run `dracut --force {path.parent}/IMAGE {self.kernel}` to see all of its "
                "messages",
            )


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
    folders = _folders(root)
    found, unknown = [], []
    for kernel in kernels(root):
        files = [root / place.format(kernel) for place in _PLACES]
        for folder in folders:
            files += sorted((folder / kernel).glob("initrd*"))
        mine = [Image(path, kernel) for path in files if path.is_file()]
        together = unified(root, kernel)
        unknown += [f"{path} is a unified image, which dracut cannot rebuild" for path in together]
        if not mine and not together:
            unknown.append(f"the kernel {kernel} has no initramfs image in {root / 'boot'}")
        found += mine
    started, unclear = _of_firmware(root, {image.kernel for image in found})
    return found + started, unknown + unclear


def _of_firmware(root: Path, known: set[str]) -> tuple[list[Image], list[str]]:
    """The images of *known* kernels that a firmware starts by a fixed name, and what is unclear."""
    found, unclear = [], []
    for top in _FIRMWARE:
        for name, beside in _BESIDE.items():
            image, kernel = root / top / name, root / top / beside
            if image.is_symlink() or not image.is_file() or not kernel.is_file():
                continue
            from ephemeroot.image import (
                kernel_image,
            )  # reads a kernel: no other machine waits for it

            release = kernel_image.read(kernel)
            if release in known:
                found.append(Image(image, release))
            else:
                what = (
                    f"the kernel {release}, which has no image of its own"
                    if release
                    else (f"{kernel}, whose release cannot be read")
                )
                unclear.append(f"{image} is not rebuilt: it is for {what}")
    return found, unclear


def _folders(root: Path) -> list[Path]:
    """This system's directories by the Boot Loader Specification, one on each filesystem; another
    system's may be beside it. By the first token that is there (kernel-install(8), --entry-token).
    """
    given = _line(f"{root}/etc/kernel/entry-token")
    tokens = [given] if given else [_line(f"{root}/etc/machine-id"), *_system_names(root)]
    found = []
    for top in _BOOT:
        there = [root / top / token for token in tokens if token and "/" not in token]
        found += [folder for folder in there if folder.is_dir()][:1]
    return found


def _system_names(root: Path) -> list[str]:
    """IMAGE_ID and ID of os-release(5)."""
    for name in ("etc/os-release", "usr/lib/os-release"):
        try:
            lines = documents.read(f"{root}/{name}").decode("utf-8", "replace").splitlines()
        except OSError:
            continue
        values = dict(line.split("=", 1) for line in lines if "=" in line)
        return [values.get(key, "").strip("\"'") for key in ("IMAGE_ID", "ID")]
    return []


def _line(path: str) -> str:
    try:
        return documents.read(path, 256).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def unified(root: Path, kernel: str) -> list[Path]:
    """The unified images of *kernel*, whoever made them and signs them."""
    return [p for folder in _UNIFIED for p in (root / folder).glob(f"*{kernel}*.efi")]
