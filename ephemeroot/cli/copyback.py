"""``ephemeroot copyback``: copy back files with ``method = "copy"`` (called by units)."""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ephemeroot import terminal
from ephemeroot.cli import access, output
from ephemeroot.errors import Damaged
from ephemeroot.hooks.stage import RUN
from ephemeroot.hooks.store.copied import COPIES
from ephemeroot.hooks.store.copyback import Recorded
from ephemeroot.linux import documents
from ephemeroot.machine import labelling
from ephemeroot.plan import foreign

_REBOOT = "copy changed files into the store by hand, and reboot: each boot writes a new record"

_FILE = {"path": str, "store": str, "source": str, "user": int}
_FORM = {"files": [_FILE], "stores": {str: str}, "limit": int, "root": str}


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb has no arguments of its own."""
    access.declare(parser, "the root and the stores")


def run(arguments: argparse.Namespace) -> int:
    """Copy back the files in the record of this boot's persistence stage; print a line for each."""
    other = foreign.of_boot(Path("/"))
    if other is not None:
        sys.stdout.write(f"no file is copied back: {other.message}\n")
        return 0
    with _one_at_a_time(Path(RUN, "copy.lock")):
        recorded = _recorded(Path(RUN, COPIES))
        if recorded is None:
            return 0
        problems: list[str] = []
        stores = recorded.open_stores("/", problems)
        root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            back = recorded.copy_back(root, stores)
            for fd in (root, *stores.values()) if back.copied else ():
                labelling.give_records_the_label_of_their_directory(fd)
        finally:
            for fd in (root, *stores.values()):
                os.close(fd)
    for path in back.copied:
        sys.stdout.write(f"{terminal.printable(path)}: copied back\n")
    for problem in (*problems, *back.problems):
        terminal.warning(problem)
    return output.PARTLY if problems or back.problems else 0


@contextmanager
def _one_at_a_time(lock: Path) -> Iterator[None]:
    if not lock.parent.is_dir():  # this boot has no persistent paths
        yield
        return
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _recorded(record: Path) -> Recorded | None:
    """The record of this boot's persistence stage; ``None`` if there are no files to copy back."""
    try:
        content = documents.parse(documents.read(str(record)))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise Damaged(f"{record} is damaged: {error}", _REBOOT) from None
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    if not isinstance(content, dict) or content.get("boot-id") != boot_id:
        return None
    if not _FORM.keys() - {"root"} <= content.keys() or not documents.fits(content, _FORM):
        raise Damaged(f"{record} is damaged: its structure is not valid", _REBOOT)
    try:
        files = [{key: one[key] for key in _FILE if key != "user" or key in one}
                 for one in content["files"]]  # fmt: skip
    except KeyError:
        raise Damaged(f"{record} is damaged: a file entry is not valid", _REBOOT) from None
    return Recorded(files, content["stores"], content["limit"], content.get("root", ""))
