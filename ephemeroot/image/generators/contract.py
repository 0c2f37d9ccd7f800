"""The contract of an initramfs generator.

A generator reports whether a system has it and Ephemeroot's module for it, the files that `setup`
installs, its images and how to build them, the properties of the image under construction, and its
messages. To add one, see CONTRIBUTING.md.
"""

from __future__ import annotations

import argparse
import glob
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from ephemeroot.hooks.plan import Plan
from ephemeroot.image import readback
from ephemeroot.image.contents import Contents
from ephemeroot.image.installation import Item
from ephemeroot.image.readback import Advice
from ephemeroot.image.units import SYSTEMD, Loop
from ephemeroot.wipers.contract import Wiper

NONE = "none"
"""An init under which the stages cannot run."""


class Image(ABC):
    """An image file that a generator has built and can build again."""

    path: Path

    @property
    @abstractmethod
    def release(self) -> str:
        """The kernel release of the image; empty if only the generator knows."""

    @property
    @abstractmethod
    def advice(self) -> Advice:
        """The hints for parts that are missing when the image is read back."""

    @abstractmethod
    def describe(self, *, armed: bool) -> str:
        """What `rebuild` does, with a plan (*armed*) or without a plan."""

    @abstractmethod
    def build(self, path: Path) -> None:
        """Build the image as the file *path*. Raises ``EphemerootError``."""

    def read_back(self, fresh: Path, plan: bytes | None) -> str:
        """Verify the image *fresh*, built with *plan*. Raises ``EphemerootError``."""
        if plan is None:
            return readback.verify_without(fresh)
        return readback.verify(fresh, plan, self.advice)

    def require_bootable(self, fresh: Path) -> None:
        """Raise ``EphemerootError`` if *fresh* would not boot in place of the present image."""
        del fresh

    def copy_elsewhere(self) -> str:
        """After the image is in place, update the copies of it that boot loaders keep, by the means
        of the distribution. Returns a line for the report, or an empty string. Raises
        ``EphemerootError``.
        """
        return ""

    def rebuild(self, plan: bytes | None) -> str:
        """Build the image with *plan*, or without Ephemeroot if that is ``None``, read it back, and
        put it in place.

        The new image is built beside the old one and renamed only after it has been read back. If
        any step fails, the old image is untouched. Returns the verified parts. Raises
        ``EphemerootError``.
        """
        fresh = self.path.with_name(f".{self.path.name}.ephemeroot-new")
        try:
            self.build(fresh)
            size = fresh.stat().st_size
            verified = self.read_back(fresh, plan)
            if self.path.exists():
                self.require_bootable(fresh)
                fresh.chmod(self.path.stat().st_mode & 0o7777)
            readback.put_in_place(fresh, self.path)
        finally:
            fresh.unlink(missing_ok=True)
        copied = self.copy_elsewhere()
        return f"{verified}; {size / 1e6:.1f} MB{copied and f'; {copied}'}"


class Target(ABC):
    """The image that a generator is building, as described by its module.

    ``init`` is its init: ``SYSTEMD`` (with an emergency shell: the stages are units), ``NONE`` or a
    name of the generator's own. ``loop`` is the generator's loop that sets up devices, if it runs
    in this image.
    """

    init: str = SYSTEMD
    loop: Loop | None = None

    @property
    def has_systemd(self) -> bool:
        """Whether the stages are units; without systemd they wait for devices themselves."""
        return self.init == SYSTEMD

    @property
    @abstractmethod
    def systemd_advice(self) -> str:
        """How to build the image with systemd."""

    def exemption(self) -> str:
        """Why Ephemeroot is not added to this image (a fallback image); empty if it is."""
        return ""

    @abstractmethod
    def require(self) -> None:
        """Raise ``EphemerootError`` if the stages could not run in this image, or too early."""

    def add(self, contents: Contents, root: Wiper | None) -> None:
        """Add to armed *contents* the files for the generator's own init; *root* is the wiper of
        the root, if there is one.
        """
        del contents, root

    def add_inert(self, contents: Contents) -> None:
        """Add to inert *contents* the files by which the generator's init prints the reason."""
        del contents

    def lines(self, contents: Contents) -> list[str]:
        """The lines that the generator's module reads, one for each file or module to add."""
        return contents.lines() + [script.line for script in contents.scripts]

    def warnings(self, plan: Plan) -> list[str]:
        """Changes to this image that *plan* needs."""
        del plan
        return []


@dataclass(frozen=True, slots=True)
class Omission:
    """A setting of a generator in the file ``place`` that excludes Ephemeroot from its images."""

    place: str
    reason: str
    hint: str


@dataclass(frozen=True, slots=True)
class Missing:
    """A missing part of a generator in another package: its purpose, and the command that installs
    it, or a comment.
    """

    reason: str
    command: str


class Generator(ABC):
    """An initramfs generator."""

    NAME: str
    """The name, also as argument of ``ephemeroot setup``."""

    PROGRAM: str
    """The program's name."""

    PLACES: tuple[str, ...]
    """The possible paths of the program, relative to a root."""

    MODULE: str
    """The file of Ephemeroot's module: a glob pattern, relative to a root."""

    FOLDERS: tuple[str, ...] = ()
    """Ephemeroot's own directories among those of ``items``, removed with the last item."""

    BASE_HINT: str = ""
    """The setting to change if its images contain the name of the root they were built in."""

    def is_on(self, root: str) -> bool:
        """Whether the system at *root* has it."""
        return any(os.path.lexists(os.path.join(root, place)) for place in self.PLACES)

    def has_module(self, root: str) -> bool:
        """Whether the system at *root* has Ephemeroot's module for it."""
        return bool(glob.glob(self.MODULE, root_dir=root))

    def is_set_up(self) -> bool:
        """Whether this machine has it and the module, so that its images can be armed."""
        import shutil

        return shutil.which(self.PROGRAM) is not None and self.has_module("/")

    @abstractmethod
    def installation(self, has: Callable[[str], bool]) -> str:
        """The command that installs it on a system that *has* certain files (relative to its
        root), or a comment.
        """

    def rebuilding(self, has: Callable[[str], bool]) -> str:
        """The shell command that brings an edited kernel command line into the boot entries, as
        kernel-install or the presets do, on a system that *has* certain files; empty if there is
        none.
        """
        del has
        return ""

    @abstractmethod
    def items(self, program: str) -> list[Item]:
        """The files that ``ephemeroot setup`` installs, calling *program*; the module last."""

    @abstractmethod
    def images(self, root: Path) -> tuple[list[Image], list[str]]:
        """All its images in the system at *root*, and a line for each kernel or image that is not
        supported.
        """

    @abstractmethod
    def files(self, root: Path) -> list[Path]:
        """The image files that must contain the applied plan, also those not in `images`."""

    def enabling(self, root: Path) -> list[str]:
        """The shell commands that enable the installed module for the images of the system at
        *root*, relative to that system.
        """
        del root
        return []

    def omissions(self, root: Path) -> list[Omission]:
        """Settings under *root* that exclude the installed module from its images."""
        del root
        return []

    def missing(self, root: str, types: Collection[str], plan: Plan | None) -> list[Missing]:
        """Parts that the system at *root* lacks to mount filesystems of those *types* (of the root
        and of the volumes needed for boot) and to set up the network of *plan*.
        """
        del root, types, plan
        return []

    def declare(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options with which its module calls ``ephemeroot image``."""
        del parser

    def is_caller(self, arguments: argparse.Namespace) -> bool:
        """Whether *arguments* have an option that only its module uses."""
        del arguments
        return False

    def answer(self, arguments: argparse.Namespace, plan: Plan | None) -> list[str] | None:
        """The lines that its module asks for instead of an image; ``None`` if it asks for an image.
        *plan* is the applied plan, ``None`` if it cannot be read. Raises ``Damaged``.
        """
        del arguments, plan
        return None

    @abstractmethod
    def target(self, arguments: argparse.Namespace) -> Target:
        """The image under construction, from the *arguments* of ``ephemeroot image``."""


def last_lines(printed: str, status: int, *, marked: str = "") -> str:
    """The last three lines that a failed program *printed*, of those with *marked*; else its exit
    *status*.
    """
    lines = [line for line in printed.splitlines() if line.strip() and marked in line]
    return "; ".join(lines[-3:]) or f"exit status {status}"
