"""Refusals of verbs in a boot of a root other than the plan's, or in a crash kernel."""

from __future__ import annotations

import os
from pathlib import Path

from ephemeroot.errors import ForeignRoot, Refused
from ephemeroot.hooks import cmdline
from ephemeroot.hooks.guards import ownership
from ephemeroot.hooks.stage import RUN
from ephemeroot.linux import documents

_FORM = {"boot-id": str, "kind": str, "reason": str, "hint": str, "identity": str}


def of_boot(root: Path) -> ForeignRoot | None:
    """Why the root at *root* is foreign to the plan, as the initramfs of this boot has found;
    ``None`` if this boot is of the plan's own root.
    """
    if root == Path("/"):
        try:
            ownership.require_no_crash_kernel(cmdline.read())
        except ForeignRoot as error:
            return error
    record = _recorded(root, ownership.RECORD)
    if record:
        return ForeignRoot(record.get("kind", ""), record.get("reason", ""), record.get("hint", ""))
    prepared = _recorded(root, ownership.MOUNTED).get("identity")
    if prepared is None:
        return None
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        ownership.require_prepared(fd, prepared)
    except ForeignRoot as error:
        return error
    finally:
        os.close(fd)
    return None


def _recorded(root: Path, name: str) -> dict[str, str]:
    """A record of this boot; empty if it is missing."""
    try:
        record = documents.parse(documents.read(str(root / RUN.lstrip("/") / name)))
    except (OSError, ValueError):
        return {}
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    if not documents.fits(record, _FORM) or record.get("boot-id") != boot_id:
        return {}
    found: dict[str, str] = record
    return found


def require_own(root: Path, what: str) -> None:
    """Raise ``Refused``, with *what* at the start of the message, if this boot is of another root
    than the plan's.
    """
    found = of_boot(root)
    if found is not None:
        raise Refused(f"{what}: {found.message}", found.hint)
