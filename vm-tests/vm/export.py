"""Files that `qemu-storage-daemon` exports by FUSE, mounted in the daemon's own namespace."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

_PATIENCE = 30.0


def exported(daemon: subprocess.Popen[bytes], export: Path, size: int) -> Path:
    """The path of the file of `size` bytes that the daemon exports at `export`, once it exists.

    It is valid while the daemon runs. Raises TimeoutError.
    """
    inside = Path(f"/proc/{daemon.pid}/root{export.absolute()}")
    deadline = time.monotonic() + _PATIENCE
    while daemon.poll() is None and time.monotonic() < deadline:
        try:
            if inside.stat().st_size == size:
                return inside
        except FileNotFoundError:
            pass  # it has not yet entered its namespace
        time.sleep(0.02)
    raise TimeoutError(f"qemu-storage-daemon does not export {export}")
