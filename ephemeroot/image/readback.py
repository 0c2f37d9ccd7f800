"""Reading an image back: it must contain the plan, the files of the stages, and kernel modules."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ephemeroot import amounts
from ephemeroot.errors import EphemerootError
from ephemeroot.image import archive, contents, units
from ephemeroot.image.archive import Archive
from ephemeroot.image.tree import FOLDER
from ephemeroot.linux import paths

_BUILTIN = "/modules.builtin"


@dataclass(frozen=True)
class Advice:
    """Hints for an image without Ephemeroot (``absent``), with missing files (``incomplete``), or
    without kernel modules (``kernel_modules``).
    """

    absent: str
    incomplete: str
    kernel_modules: str


def put_in_place(fresh: Path, target: Path) -> None:
    """Rename the image *fresh* to *target*, safe from a power cut."""
    fd = os.open(fresh, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(fresh, target)
    paths.sync_directory(str(target.parent))


def verify(path: Path, plan: bytes, advice: Advice) -> str:
    """Read the image *path* back and return its verified parts; *advice* is its generator's.

    Raises ``EphemerootError`` with the fault: an image without Ephemeroot, with another plan,
    inert, or incomplete.
    """
    from ephemeroot.image import bundle  # imported here: `check` and `status` often read no image

    reason = contents.REASON.lstrip("/")
    ours = FOLDER.lstrip("/") + "/"
    found = archive.read(path, lambda n: n.startswith(ours) or n.endswith(_BUILTIN))
    if reason in found.names:
        text = found.files.get(reason, b"").decode(errors="replace")
        why = [line for line in text.splitlines() if line.startswith("The reason: ")]
        raise EphemerootError(
            f"{path} is inert: {why[0][12:] if why else 'unknown reason'}",
            "repair the cause, then run 'ephemeroot apply'",
        )
    if contents.PLAN.lstrip("/") not in found.names:
        raise EphemerootError(f"{path} does not contain ephemeroot", advice.absent)
    if found.files.get(contents.PLAN.lstrip("/")) != plan:
        raise EphemerootError(
            f"{path} does not contain the applied plan", "run 'ephemeroot apply' again"
        )
    missing = [name for name in _required(found) if name.lstrip("/") not in found.names]
    missing += _missing_hooks(found)
    if missing:
        raise EphemerootError(f"{path} lacks {amounts.listed(missing)}", advice.incomplete)
    bundle.require_sound(found.files[contents.BUNDLE.lstrip("/")], f"{path}: {contents.BUNDLE}")
    _require_kernel_modules(found, path, advice)
    stages = "units" if _has_units(found) else "hooks"
    return f"plan of {amounts.size(len(plan))}, entry, interpreter, {stages}, kernel modules"


def verify_without(path: Path) -> str:
    """Read the image *path* back and return that it does not contain Ephemeroot.

    Raises ``EphemerootError`` if it does.
    """
    ours = FOLDER.lstrip("/") + "/"
    if any(name.startswith(ours) for name in archive.read(path, lambda _: False).names):
        raise EphemerootError(
            f"{path} still contains ephemeroot",
            "check that there is no plan in /etc/ephemeroot",
        )
    return "it does not contain ephemeroot, so it never wipes"


def _required(found: Archive) -> list[str]:
    required = [contents.BOOT, f"{FOLDER}/boot.pyc", contents.BUNDLE, contents.SETTINGS]
    required.append(_setting(found, "python"))
    if _has_units(found):
        required += [*units.required(), f"{units.FOLDER}/emergency.service"]
    return [name for name in required if name]


def _has_units(found: Archive) -> bool:
    """Whether systemd starts the stages; otherwise a generator's init does, by hooks."""
    return _setting(found, "init") == units.SYSTEMD


def _missing_hooks(found: Archive) -> list[str]:
    wanted = _setting(found, "hooks").split()
    return [end for end in wanted if not any(f"/{name}".endswith(end) for name in found.names)]


def _setting(found: Archive, name: str) -> str:
    """The value of *name* in the image's settings for `boot`."""
    lines = found.files.get(contents.SETTINGS.lstrip("/"), b"").decode().splitlines()
    values = [line.partition("=")[2].strip("'") for line in lines if line.startswith(f"{name}=")]
    return values[0] if values else ""


def _require_kernel_modules(found: Archive, path: Path, advice: Advice) -> None:
    """Raise ``EphemerootError`` unless each is a file of the image, or built into the kernel."""
    wanted = found.files.get(contents.MODULES.lstrip("/"), b"").decode().split()
    files = {_module_name(name) for name in found.names if ".ko" in name}
    for name, listing in found.files.items():
        if name.endswith(_BUILTIN):
            files |= {_module_name(line) for line in listing.decode().splitlines()}
    missing = [name for name in wanted if name.replace("-", "_") not in files]
    if missing:
        raise EphemerootError(
            f"{path} lacks the kernel modules {amounts.listed(missing)}", advice.kernel_modules
        )


def _module_name(path: str) -> str:
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")
