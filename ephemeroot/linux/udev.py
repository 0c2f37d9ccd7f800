"""Waiting for a device by udev's events. Imported only if a device must be waited for."""

from __future__ import annotations

import ctypes
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType


# Modules that pyudev imports but does not use here: subprocess, timing, threads. With their own
# imports they are a thirtieth of the image.
_ONLY_MENTIONED = ("datetime", "subprocess", "threading")


class _StandIn(type(sys)):  # type: ignore[misc]
    """A stand-in for a module, with attributes of any name."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return object


def load() -> ModuleType:
    """Import pyudev. Raises ``ImportError`` if it, or libudev, is missing.

    pyudev finds its library through ``ctypes.util``, which runs ldconfig or a compiler. An
    initramfs has neither, so the name is given here; pyudev uses nothing else of that module.
    """
    absent = [name for name in ("ctypes.util", *_ONLY_MENTIONED) if name not in sys.modules]
    for name in absent:
        sys.modules[name] = _StandIn(name)
    if "ctypes.util" in absent:
        sys.modules["ctypes.util"].find_library = "lib{}.so.1".format  # type: ignore[attr-defined]
    try:
        import collections.abc  # noqa: F401  # pyudev uses it without importing it

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
    """Wait until *path* in /dev exists, at most *seconds* (0: no limit); return whether it does.

    Events arrive after udev has made the links, so there is no polling. Raises ``ImportError``
    without pyudev, and ``OSError`` if the kernel sends no events.
    """
    pyudev = load()
    monitor = pyudev.Monitor.from_netlink(pyudev.Context())
    monitor.filter_by("block")
    # Events are queued from here, so a device that appears before the first check is not missed.
    monitor.start()
    end = time.monotonic() + seconds
    while not os.path.exists(path):
        left = end - time.monotonic()
        if seconds and left <= 0:
            return False
        monitor.poll(left if seconds else None)
    return True
