"""What a machine that has fallen silent still knows: its journal is in its memory."""

from __future__ import annotations

import mmap
import re
from contextlib import suppress
from pathlib import Path

from vm.port import Closed, Silence
from vm.qemu import Qemu

# q35 has no more than that below the hole for devices, and the first bytes there are at 0.
_LOW = 2 << 30
# A journal's data object, as long as it is not compressed (systemd, docs/JOURNAL_FILE_FORMAT.md).
_MESSAGE = re.compile(rb"MESSAGE=([\t -~]{4,400})")


def save(qemu: Qemu, console: Path) -> Path | None:
    """Write the journal's messages that are in the machine's memory, in the order in which they lie
    there, beside the log of its *console*; None if QEMU does not answer. It stands still meanwhile.
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
        # The same page may lie there twice, in a buffer and in the journal's file.
        found = dict.fromkeys(match.group(1) for match in _MESSAGE.finditer(memory))
    text.write_bytes(b"\n".join(found) + b"\n")
    return text
