"""The installed generators, found by their entry points."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from ephemeroot.errors import EphemerootError
from ephemeroot.image.generators.contract import Generator, Omission
from ephemeroot.machine import entry_points

GROUP = "ephemeroot.generators"

_RECOMMENDED = "dracut"

_UNSUPPORTED = {"initramfs-tools": ("usr/sbin/update-initramfs", "sbin/update-initramfs")}
"""Generators that cannot run the stages, and the places of their programs."""


def names() -> list[str]:
    """The names of all generators, sorted."""
    return sorted({entry.name for entry in entry_points.declared(GROUP)})


@functools.cache
def every() -> tuple[Generator, ...]:
    """All generators, sorted by name. Raises ``EphemerootError`` if one cannot be loaded."""
    return tuple(find(name) for name in names())


@functools.cache
def find(name: str) -> Generator:
    """The generator called *name*. Raises ``EphemerootError``."""
    what = f"the initramfs generator {name!r}"
    reference = entry_points.find(GROUP, name, "an initramfs generator", EphemerootError)
    if not reference:
        raise EphemerootError(
            f"cannot load {what}: no installed package provides it",
            "reinstall ephemeroot, or install the package of the generator",
        )
    # An abstract class is only the wrong base where it is instantiated (mypy, issue 4717).
    return entry_points.load(reference, Generator, what, EphemerootError)()  # type: ignore[type-abstract]


def recommended() -> Generator:
    """The generator to install on a system without one."""
    return find(_RECOMMENDED)


def set_up() -> list[Generator]:
    """The generators on this machine that have Ephemeroot's module."""
    return [generator for generator in every() if generator.is_set_up()]


def on(root: str) -> Generator | None:
    """The generator of the system at *root*."""
    return next((generator for generator in every() if generator.is_on(root)), None)


def unsupported(root: str) -> str:
    """The name of a generator at *root* that cannot run the stages; empty if there is none."""
    for name, places in _UNSUPPORTED.items():
        if any(os.path.lexists(os.path.join(root, place)) for place in places):
            return name
    return ""


def releases(root: Path) -> set[str]:
    """The known kernel releases for which the system at *root* has images."""
    images = [image for generator in every() for image in generator.images(root)[0]]
    return {image.release for image in images if image.release}


def omissions(root: Path) -> list[Omission]:
    """Settings of the generators at *root* that exclude Ephemeroot from their images, although its
    module is installed.
    """
    return [
        omission
        for generator in every()
        if generator.is_on(str(root)) and generator.has_module(str(root))
        for omission in generator.omissions(root)
    ]


def base_hints() -> str:
    """The settings to change if an image contains the name of the root it was built in."""
    return "; ".join(generator.BASE_HINT for generator in every() if generator.BASE_HINT)
