"""dracut's images: which there are, building one anew, and reading it back.

An image is built beside the old one, read back, and only then takes its name: whatever
fails, the machine still has the image that it had.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ephemeroot.errors import EphemerootError
from ephemeroot.image import archive, contents, initramfs, units
from ephemeroot.image.archive import Archive
from ephemeroot.image.tree import FOLDER
from ephemeroot.linux import paths

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
_BUILTIN = "/modules.builtin"
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
        machine = (root / "etc/machine-id").read_text().strip()
    except OSError:
        machine = ""
    found, unknown = [], []
    for kernel in kernels(root):
        places = [place.format(kernel) for place in _PLACES]
        if machine:
            places += [place.format(kernel, id=machine) for place in _MACHINE_PLACES]
        mine = [Image(root / place, kernel) for place in places if (root / place).is_file()]
        unified = [p for folder in _UNIFIED for p in (root / folder).glob(f"*{kernel}*.efi")]
        unknown += [f"{path} is a unified image, which cannot be read back" for path in unified]
        if not mine and not unified:
            unknown.append(f"the kernel {kernel} has no initramfs image in {root / 'boot'}")
        found += mine
    return found, unknown


def rebuild(image: Image, plan: bytes) -> str:
    """Build *image* anew and put it in place once it has been read back.

    Returns what was verified. Raises ``EphemerootError``; the old image is then untouched.
    """
    fresh = image.path.with_name(f".{image.path.name}.ephemeroot-new")
    try:
        _build(fresh, image.kernel)
        size = fresh.stat().st_size
        verified = verify(fresh, plan)
        fresh.chmod(image.path.stat().st_mode & 0o7777)
        _sync(fresh)
        os.rename(fresh, image.path)
        paths.sync_directory(str(image.path.parent))
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


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def verify(path: Path, plan: bytes) -> str:
    """Read the image *path* back and return what is right about it.

    Raises ``EphemerootError`` saying what is not: an image without ephemeroot in it, with
    another plan, inert, or incomplete.
    """
    reason = contents.REASON.lstrip("/")
    ours = FOLDER.lstrip("/") + "/"
    found = archive.read(path, lambda n: n.startswith(ours) or n.endswith(_BUILTIN))
    if reason in found.names:
        text = found.files.get(reason, b"").decode(errors="replace")
        why = [line for line in text.splitlines() if line.startswith("The reason: ")]
        raise EphemerootError(f"{path} is inert: {why[0][12:] if why else 'it does not say why'}")
    if contents.PLAN.lstrip("/") not in found.names:
        raise EphemerootError(
            f"{path} has nothing of ephemeroot in it",
            "run `ephemeroot setup dracut`; omit_dracutmodules in dracut.conf must not name it",
        )
    if found.files.get(contents.PLAN.lstrip("/")) != plan:
        raise EphemerootError(f"{path} has another plan than the applied one")
    missing = [name for name in _required(found) if name.lstrip("/") not in found.names]
    missing += _missing_hooks(found)
    if missing:
        raise EphemerootError(f"{path} lacks {', '.join(missing)}", "look at what dracut says")
    _require_kernel_modules(found, path)
    stages = "units" if _setting(found, "init") == initramfs.SYSTEMD else "hooks"
    return f"plan of {len(plan)} bytes, entry, interpreter, {stages}, kernel modules"


def _required(found: Archive) -> list[str]:
    required = [contents.BOOT, f"{FOLDER}/boot.pyc", contents.SETTINGS, _setting(found, "python")]
    if _setting(found, "init") == initramfs.SYSTEMD:
        required += [*units.required(), f"{units.FOLDER}/emergency.service"]
    return [name for name in required if name]


def _missing_hooks(found: Archive) -> list[str]:
    if _setting(found, "init") != initramfs.DRACUT:
        return []
    wanted = initramfs.required_hooks()
    return [end for end in wanted if not any(name.endswith(end) for name in found.names)]


def _setting(found: Archive, name: str) -> str:
    """The value that *name* has in the image's settings for `boot`."""
    lines = found.files.get(contents.SETTINGS.lstrip("/"), b"").decode().splitlines()
    values = [line.partition("=")[2].strip("'") for line in lines if line.startswith(f"{name}=")]
    return values[0] if values else ""


def _require_kernel_modules(found: Archive, path: Path) -> None:
    """Each is a file of the image, or built into the kernel."""
    wanted = found.files.get(contents.MODULES.lstrip("/"), b"").decode().split()
    files = {_module_name(name) for name in found.names if ".ko" in name}
    for name, listing in found.files.items():
        if name.endswith(_BUILTIN):
            files |= {_module_name(line) for line in listing.decode().splitlines()}
    missing = [name for name in wanted if name.replace("-", "_") not in files]
    if missing:
        raise EphemerootError(
            f"{path} lacks the kernel modules {', '.join(missing)}",
            "are they installed for this kernel, and not in dracut's omit_drivers?",
        )


def _module_name(path: str) -> str:
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")
