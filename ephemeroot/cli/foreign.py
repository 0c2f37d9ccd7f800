"""Verbs that must do nothing in a boot of another root than the plan's, or in a crash kernel."""

from __future__ import annotations

from pathlib import Path

from ephemeroot.errors import ForeignRoot, Refused
from ephemeroot.hooks import cmdline, ownership
from ephemeroot.hooks.stage import RUN
from ephemeroot.linux import documents

_FORM = {"boot-id": str, "kind": str, "reason": str, "hint": str}


def of_boot(root: Path) -> ForeignRoot | None:
    """What the initramfs of this boot has found to be foreign in the root at *root*; ``None`` if
    it boots the plan's own root.
    """
    if root == Path("/"):
        try:
            ownership.require_no_crash_kernel(cmdline.read())
        except ForeignRoot as error:
            return error
    try:
        record = documents.parse(documents.read(str(root / RUN.lstrip("/") / ownership.RECORD)))
    except (OSError, ValueError):
        return None
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    if not documents.fits(record, _FORM) or record.get("boot-id") != boot_id:
        return None
    return ForeignRoot(record.get("kind", ""), record.get("reason", ""), record.get("hint", ""))


def require_own(root: Path, what: str) -> None:
    """Raise ``Refused`` if this boot is of another root: *what* belongs to the plan's own."""
    found = of_boot(root)
    if found is not None:
        raise Refused(f"{what}: {found.message}", found.hint)
