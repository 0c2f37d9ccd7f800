"""Two processes: one simulates the boot and tidies up, the other waits, and tidies up if need be.

Everything that is made is made by the first, after the second is there to see its end. If the one
that waits is killed, the kernel tells the other (PR_SET_PDEATHSIG, prctl(2)): at no moment does
killing one of them leave anything. If both are, the next rehearsal tidies up. What is mounted goes
with the mount namespace of the process that mounted it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from ephemeroot.errors import EphemerootError
from ephemeroot.linux import kernel

_PR_SET_PDEATHSIG = 1
_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class Ended(BaseException):
    """The process was asked to end."""


def play(action: Callable[[], dict[str, Any]], tidy: Callable[[], bool]) -> dict[str, Any] | None:
    """Run *action* in a process of its own and return what it returned; ``None`` if it ended
    without. An ``EphemerootError`` of *action* is raised here.

    *tidy*, which returns whether nothing is left, is called afterwards in that process, and in this
    one unless it returned true there.
    """
    read, write = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(read)
        _child(action, tidy, write, parent)
    os.close(write)
    try:
        with open(read, "rb") as pipe:
            raw = pipe.read()
    except BaseException:
        # Interrupted: the other one has the signal as well, or gets it now.
        os.kill(child, signal.SIGTERM)
        raise
    finally:
        if not _wait(child):
            tidy()
    if not raw:
        return None
    answer = json.loads(raw)
    if "error" in answer:
        raise EphemerootError(*answer["error"])
    result: dict[str, Any] = answer["result"]
    return result


def _wait(child: int) -> bool:
    """Whether *child* has ended, with nothing left of it."""
    while True:
        try:
            return os.waitpid(child, 0)[1] == 0
        except KeyboardInterrupt:
            continue
        except ChildProcessError:
            return False


def _child(
    action: Callable[[], dict[str, Any]], tidy: Callable[[], bool], write: int, parent: int
) -> None:
    code = 1
    signals = _Signals()
    try:
        try:
            signals.catch()
            kernel.libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
            if os.getppid() != parent:
                raise Ended
            os.write(write, json.dumps(_answer(action)).encode())
        finally:
            signals.block()
    except Ended:
        pass
    except BaseException:  # noqa: BLE001  # whatever it is, two processes must not continue
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            code = 0 if tidy() else 1
        except BaseException:  # noqa: BLE001  # the other one tries again, and reports it
            code = 1
        os._exit(code)


class _Signals:
    """The first of several signals ends the action; none disturbs what tidies up.

    Ctrl-C is followed by the signal of the process that waits. Python has then noted both, and
    would complain of the second one if it were ignored from the first one on.
    """

    def __init__(self) -> None:
        self._blocked = False

    def catch(self) -> None:
        for number in _SIGNALS:
            signal.signal(number, self._arrived)

    def block(self) -> None:
        self._blocked = True
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if not self._blocked:
            self.block()
            raise Ended


def _answer(action: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return {"result": action()}
    except EphemerootError as error:
        return {"error": [error.message, error.hint]}
