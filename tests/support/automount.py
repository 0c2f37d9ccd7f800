"""A direct automount point as systemd makes one: ``automount.py POINT DEVICE TYPE``.

Prints a line when the automount exists, and mounts the device when a process accesses it (the
kernel's protocol, Documentation/filesystems/autofs.rst). Runs until it is terminated.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import subprocess
import sys

_READY, _FAIL = 0x9360, 0x9361  # include/uapi/linux/auto_fs.h


def main(point: str, device: str, kind: str) -> None:
    os.setpgid(0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    reading, writing = os.pipe()
    options = f"fd={writing},pgrp={os.getpgrp()},minproto=5,maxproto=5,direct"
    if libc.mount(b"systemd-1", point.encode(), b"autofs", 0, options.encode()):
        sys.exit(f"autofs: {os.strerror(ctypes.get_errno())}")
    os.close(writing)
    top = os.open(point, os.O_RDONLY | os.O_DIRECTORY)
    print("ready", flush=True)
    while packet := os.read(reading, 4096):
        _, _, token = struct.unpack_from("=iiI", packet)
        done = subprocess.run(["mount", "-t", kind, device, point], check=False)
        fcntl.ioctl(top, _FAIL if done.returncode else _READY, token)


if __name__ == "__main__":
    main(*sys.argv[1:])
