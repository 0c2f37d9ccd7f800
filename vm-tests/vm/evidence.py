"""The journal of a machine that no longer answers, from its memory."""

from __future__ import annotations

import mmap
import re
from contextlib import suppress
from pathlib import Path

from vm.port import Closed, Silence
from vm.qemu import Qemu

# On q35, memory below the hole for devices is limited to this size, and starts at address 0.
_LOW = 2 << 30
# A journal's data object, if it is not compressed (systemd, docs/JOURNAL_FILE_FORMAT.md).
_MESSAGE = re.compile(rb"MESSAGE=([\t -~]{4,400})")


def save(qemu: Qemu, console: Path) -> Path | None:
    """Write the journal's messages in the machine's memory, in their order in memory, beside the
    log of its *console*; None if QEMU does not answer. The machine is stopped meanwhile.
    """
    image = console.with_suffix(".memory")
    try:
        with suppress(Closed, Silence, KeyError):
            size = qemu.command("query-memory-size-summary")["return"]["base-memory"]
            qemu.command("stop")
            words = {"val": 0, "size": min(size, _LOW), "filename": str(image)}
            if "error" in qemu.command("pmemsave", 120, **words):
                return None
            qemu.command("cont")
            return _messages(image, console.with_suffix(".journal"))
        return None
    finally:
        image.unlink(missing_ok=True)


def _messages(image: Path, text: Path) -> Path:
    with (
        image.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory,
    ):
        # The same page may be in memory twice, in a buffer and in the journal's file.
        found = dict.fromkeys(match.group(1) for match in _MESSAGE.finditer(memory))
    text.write_bytes(b"\n".join(found) + b"\n")
    return text
