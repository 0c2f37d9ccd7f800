"""The contract of an initramfs generator: everything that the program asks of one.

A generator answers whether it is on this system and has our module, what `setup` installs for
it, which images it has and how one is built again, what the image that it is building right
now is like, and its messages. To add one, see CONTRIBUTING.md.
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
"""Something that the stages cannot run under."""


class Image(ABC):
    """An image file that a generator has built and can build again."""

    path: Path

    @property
    @abstractmethod
    def release(self) -> str:
        """The kernel release that it is for; empty if only the generator knows."""

    @property
    @abstractmethod
    def advice(self) -> Advice:
        """What to do where reading it back finds something missing."""

    @abstractmethod
    def describe(self, *, armed: bool) -> str:
        """What `rebuild` does, with a plan (*armed*) or without one."""

    @abstractmethod
    def build(self, path: Path) -> None:
        """Build it as the file *path*. Raises ``EphemerootError``."""

    def read_back(self, fresh: Path, plan: bytes | None) -> str:
        """Verify the image *fresh*, built with *plan*. Raises ``EphemerootError``."""
        if plan is None:
            return readback.verify_without(fresh)
        return readback.verify(fresh, plan, self.advice)

    def require_bootable(self, fresh: Path) -> None:
        """Raise ``EphemerootError`` if *fresh* would not boot in place of the present image."""
        del fresh

    def rebuild(self, plan: bytes | None) -> str:
        """Build it again and put it in place once it has been read back: with *plan* in
        it, or without ephemeroot if that is ``None``.

        An image is built beside the old one, read back, and only then takes its name: whatever
        fails, the machine still has the image that it had. Returns the verified parts. Raises
        ``EphemerootError``; the old image is then untouched.
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
        return f"{verified}; {size / 1e6:.1f} MB"


class Target(ABC):
    """The image that a generator is building right now, as its module describes it.

    ``init`` is its init: ``SYSTEMD`` (with an emergency shell: the stages are units),
    ``NONE`` or a name of the generator's own; ``loop`` is the generator's loop that makes devices,
    if that runs in it.
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
        """How the image is built with systemd, if the administrator needs that."""

    def exemption(self) -> str:
        """Why nothing is added to this image (a fallback image); empty if something is."""
        return ""

    @abstractmethod
    def require(self) -> None:
        """Raise ``EphemerootError`` if the stages could not run in this image, or too early."""

    def add(self, contents: Contents, root: Wiper | None) -> None:
        """Add to armed *contents* what the generator's own init needs; *root* is the wiper of
        the root, if there is one.
        """
        del contents, root

    def add_inert(self, contents: Contents) -> None:
        """Add to inert *contents* what the generator's own init needs to say why."""
        del contents

    def lines(self, contents: Contents) -> list[str]:
        """What the generator's module reads: a line for each thing that it adds."""
        return contents.lines() + [script.line for script in contents.scripts]

    def warnings(self, plan: Plan) -> list[str]:
        """What the administrator should change about this image for *plan* to work."""
        del plan
        return []


@dataclass(frozen=True, slots=True)
class Omission:
    """A setting of a generator in the file ``place`` by which its images do not contain
    Ephemeroot.
    """

    place: str
    reason: str
    hint: str


@dataclass(frozen=True, slots=True)
class Missing:
    """A part of a generator's that other projects package: what it is for, and the command that
    installs it, or a comment.
    """

    reason: str
    command: str


class Generator(ABC):
    """An initramfs generator."""

    NAME: str
    """Also its argument of ``ephemeroot setup``."""

    PROGRAM: str
    """The program's name."""

    PLACES: tuple[str, ...]
    """Where a system has the program, relative to its root."""

    MODULE: str
    """The file without which its images do not contain Ephemeroot: a pattern, relative to a
    root.
    """

    FOLDERS: tuple[str, ...] = ()
    """Our own directories among those of ``items``, removed with the last item."""

    BASE_HINT: str = ""
    """What to change where its images name the root that they were built in."""

    def is_on(self, root: str) -> bool:
        """Whether the system below *root* has it."""
        return any(os.path.lexists(os.path.join(root, place)) for place in self.PLACES)

    def has_module(self, root: str) -> bool:
        """Whether our module is among its own, in the system below *root*."""
        return bool(glob.glob(self.MODULE, root_dir=root))

    def is_set_up(self) -> bool:
        """Whether this machine has it, with our module: its images can be armed."""
        import shutil

        return shutil.which(self.PROGRAM) is not None and self.has_module("/")

    @abstractmethod
    def installation(self, has: Callable[[str], bool]) -> str:
        """The command that installs it on a system that *has* certain files (relative to its
        root), or a comment.
        """

    def rebuilding(self, has: Callable[[str], bool]) -> str:
        """The command of a shell after which what boots has the edited kernel command line, with
        what kernel-install or the presets do besides, on a system that *has* certain files; empty
        if there is none.
        """
        del has
        return ""

    @abstractmethod
    def items(self, program: str) -> list[Item]:
        """What ``ephemeroot setup`` installs for it, calling *program*; the module last."""

    @abstractmethod
    def images(self, root: Path) -> tuple[list[Image], list[str]]:
        """All its images in the system below *root*; and a line for each kernel or image that
        cannot be dealt with.
        """

    @abstractmethod
    def files(self, root: Path) -> list[Path]:
        """The image files that must carry the applied plan, whether or not `images` has them."""

    def enabling(self, root: Path) -> list[str]:
        """The commands of a shell after which the images of the system below *root* have our
        module, which ``ephemeroot setup`` has installed. They are relative to that system.
        """
        del root
        return []

    def omissions(self, root: Path) -> list[Omission]:
        """Settings below *root* that keep its module, which is installed, out of its images."""
        del root
        return []

    def missing(self, root: str, types: Collection[str], plan: Plan | None) -> list[Missing]:
        """What the system below *root* lacks so that its images can mount filesystems of those
        *types* (the root's, and of the volumes needed for boot) and set up the network of *plan*.
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
        """What its module asks for in place of an image, a line each; ``None`` if nothing.
        *plan* is the applied one, ``None`` if there is none that can be read. Raises
        ``Damaged``.
        """
        del arguments, plan
        return None

    @abstractmethod
    def target(self, arguments: argparse.Namespace) -> Target:
        """The image that is being built, by the *arguments* of ``ephemeroot image``."""
