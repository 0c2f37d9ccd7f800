"""Two machines with one processor each at a time, or one with several processors alone.

Two machines with two virtual processors each take longer in parallel than one after the other, and
their timeouts expire. The two slots are locks in the cache, so that all runs on this host share
them.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from vm.cache import Cache
from vm.command import note

SLOTS = 2

_POLL = 0.1  # seconds: flock(2) cannot wait for the first of two locks


@dataclass
class _Turn:
    """The slots of this process: every slot if `alone`, otherwise one; `machine` says whether a
    machine runs.
    """

    alone: bool
    machine: bool = field(default=False)


_turns: dict[Path, _Turn] = {}


@contextmanager
def one_turn(cache: Cache, *, alone: bool = False) -> Iterator[None]:
    """Hold the right to run machines for several short boots one after the other; waits for other
    processes. With `alone`, no other machine runs during that time.

    Raises RuntimeError if this process has a turn that is not `alone` but `alone` is requested: it
    would wait for itself without end.
    """
    held = _turns.get(cache.root)
    if held is not None:
        if alone and not held.alone:
            raise RuntimeError("this turn shares the host: ask for one_turn(cache, alone=True)")
        yield
        return
    cache.root.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        _acquire(cache.root, stack, alone=alone)
        _turns[cache.root] = _Turn(alone)
        stack.callback(_turns.pop, cache.root)
        yield


@contextmanager
def one_machine(cache: Cache, *, alone: bool = False) -> Iterator[None]:
    """Hold the right to run one machine; waits for other processes. `alone` as in `one_turn`.

    Raises RuntimeError if this process already runs one, or if its turn is not `alone`.
    """
    held = _turns.get(cache.root)
    if held is not None and held.machine:
        raise RuntimeError(
            "a machine of this run is still up: power it off or cut it before the next boot"
        )
    with one_turn(cache, alone=alone):
        turn = _turns[cache.root]
        turn.machine = True
        try:
            yield
        finally:
            turn.machine = False


def _acquire(root: Path, stack: ExitStack, *, alone: bool) -> None:
    # A process that waits for slots holds the gate: later ones wait behind it, so that a machine
    # that needs every slot gets its turn.
    gate = _open(root / "machine.gate")
    try:
        if not _try(gate):
            note("waiting for the machines of another run to end …")
            fcntl.flock(gate, fcntl.LOCK_EX)
        slots = [_open(root / f"machine.{number}.lock") for number in range(SLOTS)]
        for slot in slots:
            stack.callback(os.close, slot)
        if alone:
            for slot in slots:
                fcntl.flock(slot, fcntl.LOCK_EX)
            return
        while not any(_try(slot) for slot in slots):
            time.sleep(_POLL)
    finally:
        os.close(gate)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _try(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
