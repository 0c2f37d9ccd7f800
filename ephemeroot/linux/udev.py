"""Waiting for a device with udev's own events. Imported only when one must be waited for."""

from __future__ import annotations

import ctypes
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType


def load() -> ModuleType:
    """pyudev. Raises ``ImportError`` if it, or libudev, is not there.

    It finds its library through ``ctypes.util``, which runs ldconfig or a compiler: in an
    initramfs is neither, so it is told. What else that module does is nothing to pyudev.
    """
    stand_in = "ctypes.util" not in sys.modules
    if stand_in:
        module = type(sys)("ctypes.util")
        module.find_library = "lib{}.so.1".format  # type: ignore[attr-defined]
        sys.modules["ctypes.util"] = module
    try:
        import pyudev

        pyudev.Context()  # opens the library
    except OSError as error:
        raise ImportError(str(error)) from error
    finally:
        if stand_in:
            del sys.modules["ctypes.util"]
            if hasattr(ctypes, "util"):
                del ctypes.util
    found: ModuleType = pyudev
    return found


def wait_for(path: str, seconds: float) -> bool:
    """Wait until *path* in /dev is there, at most *seconds* (0: without end); whether it is.

    Events come after udev has made the links, so nothing is looked for in between. Raises
    ``ImportError`` without pyudev, ``OSError`` if the kernel gives no events.
    """
    pyudev = load()
    monitor = pyudev.Monitor.from_netlink(pyudev.Context())
    monitor.filter_by("block")
    # From now on events are kept for us: what appears before the first look is no loss.
    monitor.start()
    end = time.monotonic() + seconds
    while not os.path.exists(path):
        left = end - time.monotonic()
        if seconds and left <= 0:
            return False
        monitor.poll(left if seconds else None)
    return True
