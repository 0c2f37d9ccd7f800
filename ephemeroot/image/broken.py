"""Why an image is inert."""

from __future__ import annotations

from ephemeroot.errors import EphemerootError


class Broken(EphemerootError):
    """The initramfs's part of the program cannot be put together: make an inert image."""
