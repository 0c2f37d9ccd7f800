"""Files of the boot loader that name the temporary copy, which gets another name at the end.

Entries with that name would not boot. A list of snapshots, which grub-btrfs and its like put into
the boot menu, is another matter: the copy was a subvolume when they looked. It is renamed in the
list to what it becomes.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from ephemeroot.base import bootfiles
from ephemeroot.base.boot_kernels import Area
from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.image import archive, unified
from ephemeroot.image.generators import installed

_LARGEST_LIST = 4 << 20
_LARGEST_IMAGE = 1 << 30
# The words by which programs that list snapshots name what they write.
_LIST = re.compile(r"snap|btrfs|timeshift", re.IGNORECASE)
_IMAGE_NAMES = ("initr", "initramfs", "minirfs")
# What to do about a file by its name; about an initramfs ("") its generator knows.
_HINTS = (
    (re.compile(r"(.*/)?(initr|initramfs|minirfs)[^/]*|.*\.efi", re.IGNORECASE), ""),
    (
        re.compile(r"(.*/)?loader/entries/[^/]*\.conf"),
        (
            "kernel-install generates it: put root= and rootflags= of the root into "
            "/etc/kernel/cmdline"
        ),
    ),
    (
        re.compile(r"(.*/)?limine\.(conf|cfg)"),
        (
            "limine-entry-tool or limine-snapper-sync generates it: run it after 'base run', not "
            "inside"
        ),
    ),
    (
        re.compile(r"(.*/)?refind[^/]*\.conf"),
        "rEFInd's scripts or refind-btrfs generate it: run them after 'base run', not inside",
    ),
    (
        re.compile(r"(.*/)?(grub\.cfg|custom\.cfg)"),
        "a script in /etc/grub.d lists subvolumes, or looks for the root without grub-mkrelpath",
    ),
)
_ANY = "run the program that writes this file after 'base run', not inside"
_GENERATED = re.compile(
    r"(?:generated|written|created|made)(?: automatically)? by[: ]+(\S+)", re.IGNORECASE
)


def settle(areas: Iterable[Area], temporary: str, becomes: str, log: Callable[[str], None]) -> None:
    """Have no file in *areas* name the subvolume *temporary* any more: where lists of snapshots do
    it is called what it *becomes*. Raises ``Refused`` for any other file, by name.
    """
    word = os.fsencode(temporary)
    lists: list[tuple[Area, str]] = []
    for area in areas:
        for name in sorted(area.changed()):
            path = area.path / name
            if path.is_symlink() or not _mentions(path, word):
                continue
            if not _is_list(name, path, word, os.fsencode(becomes)):
                raise _refusal(area, name, temporary)
            lists.append((area, name))
    for area, name in lists:
        content = (area.path / name).read_bytes()
        bootfiles.rewrite(area.path / name, content.replace(word, os.fsencode(becomes)))
        log(f"{area.shown}/{name} lists snapshots: name the new base {becomes} in it")


def _mentions(path: Path, word: bytes) -> bool:
    size = path.stat().st_size
    if not size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(word) >= 0:
            return True
        is_image = path.name.startswith(_IMAGE_NAMES) or unified.is_unified(content[:2])
    if not is_image or size > _LARGEST_IMAGE:
        return False
    try:
        image = archive.read(path, lambda member: member.startswith("etc/cmdline"))
    except EphemerootError:
        return False  # not an image after all, or one that the program for it is missing for
    return any(word in content for content in image.files.values())


def _is_list(name: str, path: Path, word: bytes, base: bytes) -> bool:
    """Whether the file is text that lists snapshots: by its name, or because it also has the base
    in it, which nothing boots. Never one that boots by what it names.
    """
    if any(pattern.fullmatch(name) for pattern, _ in _HINTS):
        return False
    if path.stat().st_size > _LARGEST_LIST:
        return False
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return "\0" not in text and (bool(_LIST.search(name)) or base in content.replace(word, b""))


def _refusal(area: Area, name: str, temporary: str) -> Refused:
    hint = next((hint for pattern, hint in _HINTS if pattern.fullmatch(name)), _ANY)
    hint = hint or installed.base_hints()
    writer = _writer(area.path / name)
    by = f" by {writer}" if writer else ""
    return Refused(
        f"{area.shown}/{name} was generated{by} for the temporary subvolume {temporary}, which no "
        "longer exists after this run",
        hint,
    )


def _writer(path: Path) -> str:
    """The program that the beginning of the file names as the one that wrote it."""
    try:
        with path.open("rb") as file:
            head = file.read(2048).decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    found = _GENERATED.search(head)
    return found[1].strip("'\"`.,;:()") if found else ""
