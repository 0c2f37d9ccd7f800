"""One machine at a time: two at once take twice as long each, and time-outs begin to lie."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vm.cache import Cache
from vm.command import note

_turns: set[Path] = set()
_held: set[Path] = set()


@contextmanager
def one_turn(cache: Cache) -> Iterator[None]:
    """Hold the right to run machines for several short boots one after the other; waits for other
    processes.
    """
    if cache.root in _turns:
        yield
        return
    cache.root.mkdir(parents=True, exist_ok=True)
    lock = os.open(cache.root / "machine.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note("waiting for the machine of another run to end …")
            fcntl.flock(lock, fcntl.LOCK_EX)
        _turns.add(cache.root)
        yield
    finally:
        _turns.discard(cache.root)
        os.close(lock)


@contextmanager
def one_machine(cache: Cache) -> Iterator[None]:
    """Hold the right to run a machine; waits for other processes.

    Raises RuntimeError if this process already runs one: waiting for ourselves would never end.
    """
    if cache.root in _held:
        raise RuntimeError(
            "a machine of this run is still up: power it off or cut it before the next boot"
        )
    with one_turn(cache):
        _held.add(cache.root)
        try:
            yield
        finally:
            _held.discard(cache.root)
