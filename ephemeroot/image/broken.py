"""The error that makes an image inert."""

from __future__ import annotations

from ephemeroot.errors import EphemerootError


class Broken(EphemerootError):
    """The files for the initramfs cannot be assembled, so the image becomes inert."""
