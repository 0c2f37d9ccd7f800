"""Two processes: the child simulates the boot and cleans up, the parent waits, and cleans up if the
child could not.

The child creates everything. If the parent is killed, the kernel signals the child
(PR_SET_PDEATHSIG, prctl(2)), so killing one of them leaves nothing behind. If both are killed, the
next simulation cleans up. Mounts end with the mount namespace of their process.
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


def simulate(
    action: Callable[[], dict[str, Any]], clean_up: Callable[[], bool]
) -> dict[str, Any] | None:
    """Run *action* in a child process and return its result; ``None`` if the child ended without a
    result. An ``EphemerootError`` of *action* is raised here.

    *clean_up*, which returns whether it has removed everything, is called afterwards in the child,
    and in this process unless it returned true there.
    """
    read, write = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(read)
        _child(action, clean_up, write, parent)
    os.close(write)
    try:
        with open(read, "rb") as pipe:
            raw = pipe.read()
    except BaseException:
        # Interrupted: the child may not have received the signal.
        os.kill(child, signal.SIGTERM)
        raise
    finally:
        if not _wait(child):
            clean_up()
    if not raw:
        return None
    answer = json.loads(raw)
    if "error" in answer:
        raise EphemerootError(*answer["error"])
    result: dict[str, Any] = answer["result"]
    return result


def _wait(child: int) -> bool:
    """Wait for the end of *child*; return whether it has cleaned up."""
    while True:
        try:
            return os.waitpid(child, 0)[1] == 0
        except KeyboardInterrupt:
            continue
        except ChildProcessError:
            return False


def _child(
    action: Callable[[], dict[str, Any]], clean_up: Callable[[], bool], write: int, parent: int
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
    except BaseException:  # noqa: BLE001  # the child must never continue with the parent's code
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            code = 0 if clean_up() else 1
        except BaseException:  # noqa: BLE001  # the parent tries again, and reports the error
            code = 1
        os._exit(code)


class _Signals:
    """Lets the first signal end the action; later signals do not interrupt the cleaning up.

    After Ctrl-C the parent signals the child as well. Python has recorded both signals by then, and
    would print an error for the second one if its handler were SIG_IGN.
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
