"""Two processes: one plays the boot and tidies up, the other waits and tidies up once more.

Everything that is made is made by the one that plays, after the other is there to see its end.
If the one that waits is killed, the other is told by the kernel (PR_SET_PDEATHSIG, prctl(2)): at
no moment does killing one of them leave anything. If both are, the next rehearsal tidies up. What
is mounted goes with the mount namespace of the one that plays.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from ephemeroot.linux import kernel

_PR_SET_PDEATHSIG = 1
_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class Ended(BaseException):
    """The process was asked to end."""


def play(action: Callable[[], dict[str, Any]], tidy: Callable[[], None]) -> dict[str, Any] | None:
    """Run *action* in a process of its own and return what it returned; ``None`` if it ended
    without. *tidy* is called afterwards in that process and in this one, whatever happens.
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
        _wait(child)
        tidy()
    return json.loads(raw) if raw else None


def _wait(child: int) -> None:
    while True:
        try:
            os.waitpid(child, 0)
            return
        except KeyboardInterrupt:
            continue
        except ChildProcessError:
            return


def _child(
    action: Callable[[], dict[str, Any]], tidy: Callable[[], None], write: int, parent: int
) -> None:
    code = 1
    try:
        try:
            for number in _SIGNALS:
                signal.signal(number, _end)
            kernel.libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
            if os.getppid() != parent:
                raise Ended
            os.write(write, json.dumps(action()).encode())
            code = 0
        finally:
            _ignore()
    except Ended:
        pass
    except BaseException:  # noqa: BLE001  # whatever it is, two processes must not go on
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            tidy()
        except BaseException:  # noqa: BLE001  # the other one tries again, and says so
            code = 1
        os._exit(code)


def _end(number: int, frame: FrameType | None) -> None:
    _ignore()  # once is enough, and what tidies up is not disturbed
    raise Ended


def _ignore() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
