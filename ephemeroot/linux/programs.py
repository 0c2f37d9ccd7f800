"""Running another program and reading its output, with few imports."""

from __future__ import annotations

import os

from ephemeroot.errors import EphemerootError

FOLDERS = ("/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin")
"""The search path: PATH may have any value."""


def find(name: str) -> str | None:
    """The path of the program called *name*, or ``None``."""
    for folder in FOLDERS:
        path = f"{folder}/{name}"
        if os.access(path, os.X_OK):
            return path
    return None


def run(name: str, *words: str, given: str | None = None) -> str:
    """Run a program to its end; return its stdout. Its stdin is the text *given*, or /dev/null.

    Raises ``EphemerootError`` with the last line of its stderr if it ends with a status other than
    0, and if it is missing.
    """
    path = find(name)
    if path is None:
        raise EphemerootError(
            f"the program {name} is not installed", f"install the package that contains {name}"
        )
    # Files instead of pipes: a program with much output would block on a full pipe.
    out, err = os.memfd_create("stdout"), os.memfd_create("stderr")
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    source = null if given is None else os.memfd_create("stdin")
    try:
        if given is not None:
            os.pwrite(source, os.fsencode(given), 0)
        process = os.posix_spawn(
            path,
            [name, *words],
            {**os.environ, "LC_ALL": "C"},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, source, 0),
                (os.POSIX_SPAWN_DUP2, out, 1),
                (os.POSIX_SPAWN_DUP2, err, 2),
            ],
        )
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        said = [line.strip() for line in _content(err).splitlines() if line.strip()]
        if code != 0:
            raise EphemerootError(said[-1] if said else f"{name} ended with exit status {code}")
        return _content(out)
    finally:
        for fd in {out, err, null, source}:
            os.close(fd)


def _content(fd: int) -> str:
    parts = []
    position = 0
    while part := os.pread(fd, 1 << 16, position):
        parts.append(part)
        position += len(part)
    return os.fsdecode(b"".join(parts))
