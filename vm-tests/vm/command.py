"""Running other programs: every status is checked, and every failure has the program's output."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# A fixed environment: the developer's own variables must not change the result, and programs of the
# tools tree must not use the host's LD_LIBRARY_PATH or PYTHONPATH.
_BASE_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/root",
}
_INHERITED = ("http_proxy", "https_proxy", "no_proxy", "SOURCE_DATE_EPOCH", "TMPDIR")


class CommandFailed(RuntimeError):
    """A program ended with a status other than 0.

    Attributes: `argv`, `status`, `output` (stdout and stderr, mixed or just stderr).
    """

    def __init__(self, argv: Sequence[str], status: int, output: str) -> None:
        self.argv = list(argv)
        self.status = status
        self.output = output
        tail = "\n".join(output.strip().splitlines()[-30:])
        super().__init__(f"exit status {status}: {shlex.join(argv)}\n{tail}")


class Unavailable(RuntimeError):
    """A requirement of the harness is missing on this host; the message says what to provide."""


@dataclass(frozen=True)
class Completed:
    """A finished program. `rc` is 124 if it was killed at its timeout, as with timeout(1)."""

    rc: int
    out: str
    err: str


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment programs run with."""
    chosen = dict(_BASE_ENVIRONMENT)
    chosen.update({name: os.environ[name] for name in _INHERITED if name in os.environ})
    chosen.update(extra or {})
    return chosen


def run(
    argv: Sequence[str | Path],
    *,
    input: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    log: Path | None = None,
) -> str:
    """Run a program to its end and return its stdout; stderr, or both, go to `log` if given.

    Raises CommandFailed, or Unavailable if there is no such program.
    """
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            env=environment(env),
            cwd=cwd,
            check=False,
        )
    except FileNotFoundError as error:
        raise Unavailable(f"no program {words[0]!r} on this host: install its package") from error
    if log is not None:
        log.write_text(done.stdout + done.stderr, errors="surrogateescape")
    if done.returncode != 0:
        raise CommandFailed(words, done.returncode, done.stdout + done.stderr)
    return done.stdout


def note(text: str) -> None:
    """Print a message about a long operation to stderr."""
    print(f"vm: {text}", file=sys.stderr, flush=True)
