"""A serial console with a simulated user: types an answer once a question appears on it."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_REMEMBERED = 4096


@dataclass(frozen=True)
class Typed:
    """`answer` is typed `after` seconds after text that matches `question` (a regular expression)
    was printed, each time it is printed.
    """

    question: str
    answer: str
    after: float = 0.0


class Console:
    """The other end of QEMU's serial line, while QEMU runs.

    `end` is QEMU's end, to be passed to it and then closed by `close_end`.
    """

    def __init__(self, typed: Sequence[Typed]) -> None:
        self._questions = [(re.compile(one.question.encode()), one) for one in typed]
        self._ours, self.end = socket.socketpair()
        self._thread = threading.Thread(target=self._sit, daemon=True)
        self._thread.start()

    def words(self, log: Path) -> list[str]:
        """QEMU's options for a serial line that leads here and is also written to `log`."""
        name = str(log).replace(",", ",,")
        wire = f"socket,id=console,fd={self.end.fileno()},logfile={name},logappend=off"
        return ["-chardev", wire, "-serial", "chardev:console"]

    def close_end(self) -> None:
        """QEMU now has its end."""
        self.end.close()

    def _sit(self) -> None:
        seen = b""
        with self._ours:
            while chunk := self._read():
                seen = (seen + chunk)[-_REMEMBERED:]
                while asked := self._asked(seen):
                    end, typed = asked
                    seen = seen[end:]
                    # Output must never block the guest: the buffer holds 200 KB, which is more than
                    # a quiet boot prints.
                    time.sleep(typed.after)
                    try:
                        self._ours.sendall(typed.answer.encode() + b"\r")
                    except OSError:
                        return

    def _asked(self, seen: bytes) -> tuple[int, Typed] | None:
        """The first question in the text that was `seen`: where it ends, and the answer to type."""
        found = [
            (match.start(), match.end(), typed)
            for question, typed in self._questions
            if (match := question.search(seen))
        ]
        if not found:
            return None
        _, end, typed = min(found, key=lambda one: one[0])
        return end, typed

    def _read(self) -> bytes:
        try:
            return self._ours.recv(1 << 16)
        except OSError:
            return b""
