"""An initramfs whose wipe stage cuts the power within one of its changes to a ZFS pool."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vm import initramfs
from vm.cpio import Link
from vm.layer import Content

_FOLDER = "usr/lib/ephemeroot"
_ENTRY = '"$folder/boot.pyc"'

# Runs instead of boot.pyc. The functions that it replaces are always called through the module.
_SCRIPT = '''\
import os
import sys
import time

sys.path.insert(0, "/{folder}")
import boot

boot.load()
from ephemeroot.hooks.__main__ import main
from ephemeroot.linux import programs
from ephemeroot.wipers.zfs import channel

WORDS, DELAY = {words!r}, {delay!r}


def cut():
    """As if the plug were pulled: nothing is written any more, nothing is unmounted."""
    with open("/dev/console", "w") as console:
        console.write("cut the power: " + " ".join(WORDS) + "\\n")
    with open("/proc/sysrq-trigger", "w") as trigger:
        trigger.write("b")
    time.sleep(60)


def cutting(name, original):
    def call(*words, **more):
        said = [name, *(word for word in words if isinstance(word, str) and "\\n" not in word)]
        if not all(any(word in part for part in said) for word in WORDS):
            return original(*words, **more)
        if DELAY is not None and os.fork() == 0:
            time.sleep(DELAY)
            cut()
        result = original(*words, **more)
        if DELAY is None:
            cut()
        return result

    return call


if sys.argv[1] == "wipe":
    channel.rename = cutting("rename", channel.rename)
    channel.change = cutting("change", channel.change)
    programs.run = cutting("run", programs.run)
sys.exit(main(sys.argv[1:]))
'''


@dataclass(frozen=True)
class Point:
    """When the power fails: `delay` seconds after the start of the first change whose arguments
    contain each of `words`; without a delay, when that change is complete. The first word is
    `rename`, `change` (a channel program) or `run` (a program).
    """

    words: tuple[str, ...]
    delay: float | None = None


def initrd(base: Path, point: Point, target: Path) -> Path:
    """The image `base`, with that power cut in its wipe stage, at `target`."""
    script = Path(__file__).parents[2] / "ephemeroot/image/boot.sh"
    boot = script.read_text()
    assert _ENTRY in boot
    members: dict[str, Content | Link] = {
        f"{_FOLDER}/boot": boot.replace(_ENTRY, '"$folder/cut.py"'),
        f"{_FOLDER}/cut.py": _SCRIPT.format(folder=_FOLDER, words=point.words, delay=point.delay),
    }
    return initramfs.overlay(base, members, target)
