"""The connection to the agent: JSON lines over a socket that QEMU presents as a
virtio-serial port.
"""

from __future__ import annotations

import json
import select
import socket
import time
from typing import Any

Message = dict[str, Any]


class Closed(Exception):
    """QEMU ended, and with it the connection."""


class Silence(Exception):
    """Nothing arrived in time."""


class Lines:
    """JSON objects, one a line, in both directions. Other lines are dropped: a dying guest may send
    half a line.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._pending = b""

    def fileno(self) -> int:
        """For select."""
        return self._end.fileno()

    def send(self, message: Message) -> None:
        """Send one. Raises Closed."""
        try:
            self._end.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise Closed from error

    def receive(self, deadline: float) -> Message:
        """The next one; waits until `deadline` (of time.monotonic()). Raises Silence or Closed."""
        while True:
            line, found, rest = self._pending.partition(b"\n")
            if found:
                self._pending = rest
                try:
                    message = json.loads(line)
                except ValueError:
                    continue
                if isinstance(message, dict):
                    return message
                continue
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._end], [], [], left)[0]:
                raise Silence
            try:
                chunk = self._end.recv(1 << 20)
            except OSError as error:
                raise Closed from error
            if not chunk:
                raise Closed
            self._pending += chunk

    def close(self) -> None:
        """Close our end."""
        self._end.close()
