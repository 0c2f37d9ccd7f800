"""A server for machines: a real one in user space, on a private loopback."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from vm import debian
from vm.cache import Cache
from vm.command import Unavailable
from vm.loopback import Loopback
from vm.sandbox import with_usr
from vm.tools import tree


class Server:
    """A program of `packages` that runs in the foreground. A context manager.

    `export` is the folder that it exports, `log` the file that it writes to. Subclasses implement
    `words`, its command line, and `is_ready`.
    """

    NAME: str
    PACKAGES: debian.Selection

    def __init__(self, cache: Cache, loopback: Loopback, folder: Path) -> None:
        self.folder = folder
        self.export = folder / "export"
        self.log = folder / "log"
        self.export.mkdir(parents=True, exist_ok=True)
        self.loopback = loopback
        self._cache = cache
        self._process: subprocess.Popen[bytes] | None = None

    def words(self) -> list[str]:
        """Its command line."""
        raise NotImplementedError

    def is_ready(self) -> bool:
        """Whether it answers."""
        raise NotImplementedError

    def argv(self, words: Sequence[str]) -> list[str]:
        """The command line that runs a program of its packages."""
        return with_usr(tree(self._cache, self.PACKAGES), words)

    def said(self) -> str:
        """All of its log."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def __enter__(self) -> Self:
        # pdeathsig: a killed test run must not leave a server
        words = ["setpriv", "--pdeathsig", "KILL", "--", *self.argv(self.words())]
        self._process = subprocess.Popen(self.loopback.inside(words), start_new_session=True)
        deadline = time.monotonic() + 60
        while not self.is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = self.said()
                self.__exit__(None, None, None)
                raise Unavailable(f"the {self.NAME} server does not start:\n{said[-2000:]}")
            time.sleep(0.2)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: object, where: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
