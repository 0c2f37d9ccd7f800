"""Ctrl-C at a chosen moment: after the N-th step of the code of some modules.

A step is a line that begins, a function that returns or, in selected functions, a byte code
instruction. Python handles a signal between two instructions, so these are the moments at which a
signal can take effect.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from types import FrameType, ModuleType
from typing import Any


class Interrupter:
    """Raises ``KeyboardInterrupt`` at one step of the code of *modules*, once.

    In functions called one of *closely*, each byte code instruction is a step. ``steps`` is the
    number of steps so far, ``place`` the line of the interruption.
    """

    def __init__(self, modules: Iterable[ModuleType], closely: Iterable[str] = ()) -> None:
        self.files = {module.__file__ for module in modules}
        self.closely = frozenset(closely)
        self.at = -1
        self.steps = 0
        self.place = ""

    def run(self, action: Callable[[], object], at: int = -1) -> bool:
        """Run *action*, interrupted at step number *at* (never if -1); return whether it ended
        first.

        An interruption can arrive between opening a file and the code that would close it.
        Remaining descriptors are closed here, as by the end of the process.
        """
        self.at, self.steps, self.place = at, 0, ""
        before = sys.gettrace()
        descriptors = _descriptors()
        sys.settrace(self._enter)
        try:
            action()
        except KeyboardInterrupt:
            if not self.place:
                raise
            return False
        finally:
            sys.settrace(before)
            for fd in _descriptors() - descriptors:
                os.close(fd)
        return not self.place

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        if self.place or frame.f_code.co_filename not in self.files:
            return None
        frame.f_trace_opcodes = frame.f_code.co_name in self.closely
        return self._step

    def _step(self, frame: FrameType, event: str, argument: Any) -> Any:
        if self.place or event == "exception":
            return self._step
        if self.steps == self.at:
            code = frame.f_code
            self.place = f"{event} {code.co_qualname}:{frame.f_lineno}+{frame.f_lasti}"
            raise KeyboardInterrupt
        self.steps += 1
        return self._step


def _descriptors() -> set[int]:
    listed = [int(name) for name in os.listdir("/proc/self/fd")]
    # Without the descriptor that listed them.
    return {fd for fd in listed if os.path.lexists(f"/proc/self/fd/{fd}")}
