"""Waiting for a device with udev's own events. Imported only when one must be waited for."""

from __future__ import annotations

import ctypes
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType


# What pyudev imports and only mentions: another program run, a time elapsed, a thread of its own.
# They and what they bring are a thirtieth of the image.
_ONLY_MENTIONED = ("datetime", "subprocess", "threading")


class _StandIn(type(sys)):  # type: ignore[misc]
    """A module in whose place anything can be mentioned, and little be done."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return object


def load() -> ModuleType:
    """pyudev. Raises ``ImportError`` if it, or libudev, is missing.

    It finds its library through ``ctypes.util``, which runs ldconfig or a compiler: in an
    initramfs is neither, so it is told. What else that module does is nothing to pyudev.
    """
    absent = [name for name in ("ctypes.util", *_ONLY_MENTIONED) if name not in sys.modules]
    for name in absent:
        sys.modules[name] = _StandIn(name)
    if "ctypes.util" in absent:
        sys.modules["ctypes.util"].find_library = "lib{}.so.1".format  # type: ignore[attr-defined]
    try:
        import collections.abc  # noqa: F401  # pyudev uses it and leaves the import to them

        import pyudev

        pyudev.Context()  # opens the library
    except OSError as error:
        raise ImportError(str(error)) from error
    finally:
        for name in absent:
            del sys.modules[name]
        if "ctypes.util" in absent and hasattr(ctypes, "util"):
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
    # From now on events are kept for us: what appears before the first look is not a loss.
    monitor.start()
    end = time.monotonic() + seconds
    while not os.path.exists(path):
        left = end - time.monotonic()
        if seconds and left <= 0:
            return False
        monitor.poll(left if seconds else None)
    return True
