"""dracut's images: finding and building them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ephemeroot.errors import EphemerootError
from ephemeroot.image.generators import contract
from ephemeroot.image.readback import Advice
from ephemeroot.linux import documents

# The places where dracut and the distributions put a kernel's image ({} is its version).
_PLACES = (
    "boot/initrd.img-{}",
    "boot/initramfs-{}.img",
    "boot/initrd-{}",
    "boot/initramfs-{}",
    "boot/firmware/initrd.img-{}",
    "lib/modules/{}/initrd",
)
# The filesystems of the Boot Loader Specification. Images are in TOKEN/VERSION on them, where
# dracut (dracut.sh, "outfile") and kernel-install put them: 90-loaderentry.install copies `initrd`,
# or an image that a distribution's hook has built in /boot, under its own name.
_BOOT = ("boot", "boot/efi", "efi")
# Images that the firmware of a Raspberry Pi starts: copies without a release in their names, each
# for the kernel beside it (raspi-firmware's z50-raspi-firmware; flash-kernel on Ubuntu).
_FIRMWARE = ("boot/firmware", "boot")
_BESIDE = {
    "initramfs": "kernel.img",
    "initramfs7": "kernel7.img",
    "initramfs7l": "kernel7l.img",
    "initramfs8": "kernel8.img",
    "initramfs_2712": "kernel_2712.img",
    "initrd.img": "vmlinuz",
}
_HOOKS = "etc/initramfs/post-update.d"
_UNIFIED = ("boot/EFI/Linux", "boot/efi/EFI/Linux", "efi/EFI/Linux")


_ADVICE = Advice(
    absent="run 'ephemeroot setup dracut', and remove ephemeroot from omit_dracutmodules in "
    "dracut.conf",
    incomplete="run 'dracut --force' and read its messages",
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
        """The release, after which dracut names images."""
        return self.kernel

    @property
    def advice(self) -> Advice:
        """The hints that name dracut's settings."""
        return _ADVICE

    def describe(self, *, armed: bool) -> str:
        """The rebuild, with the kernel's release."""
        what = f"rebuild {self.path} for the kernel {self.kernel}"
        return f"{what}, and read it back" if armed else f"{what} without ephemeroot"

    def build(self, path: Path) -> None:
        """Run dracut."""
        import subprocess

        try:
            done = subprocess.run(
                ["dracut", "--force", str(path), self.kernel],
                capture_output=True,
                text=True,
                check=False,
                # `path` is a temporary name, and some hooks write the name that they get into the
                # boot loader's entry. `copy_elsewhere` runs them with the final name.
                env={**os.environ, "NO_POST_UPDATE_HOOKS": "1"},
            )
        except FileNotFoundError:
            raise EphemerootError(
                f"cannot build the image of {self.kernel}: dracut is not installed",
                "install dracut, then run 'ephemeroot apply'",
            ) from None
        if done.returncode != 0 or not path.exists():
            end = contract.last_lines(done.stderr + done.stdout, done.returncode)
            raise EphemerootError(
                f"dracut could not build the image of {self.kernel}: {end}",
                f"run 'dracut --force {path.parent}/IMAGE {self.kernel}' to see all messages",
            )

    def copy_elsewhere(self) -> str:
        """Run Debian's hooks for boot loaders with the name of the image in /boot (Debian's
        dracut.sh; the kernel team's policy, "Initramfs hooks"). Copies in the directories of the
        Boot Loader Specification need no hook: `images` lists them, so they are rebuilt themselves.
        """
        import subprocess

        root = self.path.parent.parent
        hooks = root / _HOOKS
        if self.path.parent.name != "boot" or not hooks.is_dir():
            return ""
        if any(path.is_file() for path in _specified(root, self.kernel)):
            return ""
        words = ["run-parts", f"--arg={self.kernel}", f"--arg={self.path}", str(hooks)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            end = contract.last_lines(done.stdout + done.stderr, done.returncode)
            raise EphemerootError(
                f"{self.path} is in place, but a program in {hooks} failed: {end}",
                f"run '{' '.join(words)}': until then a boot loader may start its old copy",
            )
        return f"ran the programs in {hooks}"


def kernels(root: Path) -> list[str]:
    """The installed kernels, which have a modules.dep as dracut requires."""
    folder = root / "lib/modules"
    if not folder.is_dir():
        return []
    found = [f for f in folder.iterdir() if any(f.glob("modules.dep*"))]
    return sorted(f.name for f in found)


def images(root: Path) -> tuple[list[Image], list[str]]:
    """All images of all installed kernels except rescue images, and a line for each kernel or image
    that is not supported.
    """
    found, unknown = [], []
    for kernel in kernels(root):
        files = [root / place.format(kernel) for place in _PLACES]
        files += _specified(root, kernel)
        mine = [Image(path, kernel) for path in files if path.is_file()]
        together = unified(root, kernel)
        unknown += [f"{path} is a unified image, which dracut cannot rebuild" for path in together]
        if not mine and not together:
            unknown.append(f"the kernel {kernel} has no initramfs image in {root / 'boot'}")
        found += mine
    started, unclear = _of_firmware(root, {image.kernel for image in found})
    return found + started, unknown + unclear


def _of_firmware(root: Path, known: set[str]) -> tuple[list[Image], list[str]]:
    """The images of *known* kernels that a firmware starts by a fixed name, and a line for each
    image whose kernel is not known.
    """
    found, unclear = [], []
    for top in _FIRMWARE:
        for name, beside in _BESIDE.items():
            image, kernel = root / top / name, root / top / beside
            if image.is_symlink() or not image.is_file() or not kernel.is_file():
                continue
            from ephemeroot.image import kernel_image  # reads a kernel, only on such a machine

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


def _specified(root: Path, kernel: str) -> list[Path]:
    """The images of *kernel* where the Boot Loader Specification has them."""
    return [path for folder in _folders(root) for path in sorted((folder / kernel).glob("initrd*"))]


def _folders(root: Path) -> list[Path]:
    """This system's directories of the Boot Loader Specification, one on each filesystem, by the
    first existing token (kernel-install(8), --entry-token). Other systems may have directories
    beside them.
    """
    given = _line(f"{root}/etc/kernel/entry-token")
    tokens = [given] if given else [_line(f"{root}/etc/machine-id"), *_system_names(root)]
    found = []
    for top in _BOOT:
        places = [root / top / token for token in tokens if token and "/" not in token]
        found += [folder for folder in places if folder.is_dir()][:1]
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
    """The unified images of *kernel*, built by any program."""
    return [p for folder in _UNIFIED for p in (root / folder).glob(f"*{kernel}*.efi")]
