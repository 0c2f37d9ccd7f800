"""What happened in this boot, for people and for ``ephemeroot status``.

Each stage adds its operations to ``boot.json`` in the run directory. The same lines go
to the journal or the kernel log: one line an operation at debug, one line a stage at
info, failures as errors, and on the console, too.
"""

from __future__ import annotations

import os
import time

from ephemeroot.linux import documents, paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Described(Protocol):
        """What a stage carries out: an operation."""

        KIND: str

        def describe(self) -> str: ...


VERSION = 1

# sd-daemon(3), also kmsg's
CRITICAL, ERROR, WARNING, INFO, DEBUG = 2, 3, 4, 6, 7


class Report:
    """The report of one stage of one boot, and the log that goes with it.

    ``path`` is where it is written, or ``None``. ``boot`` is true in an initramfs: then
    lines go where the machine's log is. Otherwise they go to standard error, from
    ``INFO`` on (``DEBUG`` if *verbose*).
    """

    __slots__ = ("boot", "content", "path", "started", "verbose")

    def __init__(
        self, stage: str, path: str | None, boot_id: str, *, boot: bool, verbose: bool = False
    ) -> None:
        self.path = path
        self.boot = boot
        self.verbose = verbose
        self.started = time.monotonic()
        self.content: dict[str, object] = {
            "stage": stage,
            "boot-id": boot_id,
            "started": time.clock_gettime(time.CLOCK_BOOTTIME),
            "operations": [],
            "problems": [],
        }

    def log(self, line: str, level: int = INFO, *, console: bool = False) -> None:
        """Send one line to the log, and to the console too if it is an error or *console* is set.
        A log that takes nothing stops no stage half-way.
        """
        if not self.boot:
            if level <= INFO or self.verbose:
                _say(2, f"ephemeroot: {line}\n")
            return
        if os.environ.get("JOURNAL_STREAM"):
            _say(2, f"<{level}>{_one_line(line)}\n")
        else:
            _write("/dev/kmsg", f"<{level}>ephemeroot: {_one_line(line)}\n")
        if console or level <= ERROR:
            _write("/dev/console", f"ephemeroot: {line}\r\n")

    def operation(self, operation: Described, result: str, seconds: float) -> None:
        """Record that *operation* ended with *result* after *seconds*."""
        line = operation.describe()
        self._append(
            "operations",
            {
                "operation": operation.KIND,
                "line": line,
                "result": result,
                "seconds": round(seconds, 6),
            },
        )
        self.log(f"{line}: {result}", DEBUG)

    def problem(self, line: str, hint: str = "", level: int = ERROR) -> None:
        """Record a failure and say it aloud; *hint* is what to do about it."""
        self._append("problems", {"problem": line, "hint": hint})
        self.log(f"{line} ({hint})" if hint else line, level)

    def set(self, key: str, value: object) -> None:
        """Put a fact of this stage into the report."""
        self.content[key] = value

    def problems(self) -> int:
        """How many problems this stage has reported."""
        found = self.content["problems"]
        return len(found) if isinstance(found, list) else 0

    def finish(self, result: str) -> None:
        """End the stage: write the report, and one line at info level.

        A report that cannot be written is said and is not a reason to stop a boot.
        """
        self.content["result"] = result
        self.content["seconds"] = round(time.monotonic() - self.started, 6)
        stage = str(self.content["stage"])
        self.log(f"{stage}: {result} ({self.content['seconds']} s)")
        if self.path is None:
            return
        try:
            document = _load(self.path)
            document[stage] = self.content
            encoded = documents.dump_lines(document)
            paths.write_atomically(self.path, encoded + b"\n")
        except OSError as error:
            self.log(f"cannot write the report {self.path}: {error.strerror}", WARNING)

    def _append(self, key: str, value: object) -> None:
        items = self.content[key]
        if isinstance(items, list):
            items.append(value)


def _load(path: str) -> dict[str, object]:
    fresh: dict[str, object] = {"format": "ephemeroot-boot", "version": VERSION}
    try:
        document = documents.parse(documents.read(path))
    except (OSError, ValueError):
        return fresh
    if isinstance(document, dict) and document.get("version") == VERSION:
        return document
    return fresh


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n")


def _write(path: str, text: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        _say(fd, text)
    finally:
        os.close(fd)


def _say(fd: int, text: str) -> None:
    try:
        os.write(fd, text.encode("utf-8", "surrogateescape"))
    except OSError:  # journald is gone (EPIPE), /dev/full
        pass
