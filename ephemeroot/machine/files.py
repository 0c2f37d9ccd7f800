"""Files of a machine that may not be the running one, and the errors of reading them."""

from __future__ import annotations

import codecs
import errno
import os
from dataclasses import dataclass, replace

from ephemeroot.linux import documents, paths

LARGEST = 1 << 24
"""The maximum size in bytes of a file that is read here; ``toml`` has that of configurations."""


@dataclass(frozen=True, slots=True)
class File:
    """One file. ``path`` is for messages; ``error`` is why it could not be read, ``hint`` how to
    repair that.
    """

    path: str
    content: bytes = b""
    error: str = ""
    drop_in: bool = False
    hint: str = ""


def is_this_machine(root: str | os.PathLike[str]) -> bool:
    """Whether the machine at *root* is the running one. Raises ``OSError``."""
    return os.path.samestat(os.stat(root), os.stat("/"))


def exists_beneath(top: int, path: str) -> bool:
    """Whether *path* can be found in the open directory *top*, without following links."""
    try:
        os.close(paths.open_beneath(top, path.strip("/") or ".", os.O_PATH | os.O_NOFOLLOW))
    except OSError:
        return False
    return True


def exists_in_root(root: int, path: str) -> bool:
    """Whether *path* can be found in the open directory *root*, with links resolved inside it."""
    try:
        os.close(paths.open_in_root(root, path))
    except OSError:
        return False
    return True


def show(root: str, path: str) -> str:
    """*path* of the machine at *root* as a path of this machine, for messages."""
    return path if root == "/" else root.rstrip("/") + path


def open_file(root: str, path: str) -> File | None:
    """The file, with links resolved inside *root*; ``None`` if it does not exist."""
    shown = show(root, path)
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _is_masked(directory, path):
            return File(shown)
        # O_NONBLOCK: opening a FIFO would block.
        fd = paths.open_in_root(directory, path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        return unreadable(shown, OSError(error.errno or errno.EIO, os.strerror(error.errno or 5)))
    finally:
        os.close(directory)
    try:
        return File(shown, documents.read_open(fd, shown, LARGEST))
    except OSError as error:
        return unreadable(shown, error)
    finally:
        os.close(fd)


def unreadable(path: str, error: OSError) -> File:
    """The file *path* that cannot be read, with a hint for *error*."""
    hint = "put a regular file in its place, or remove it"
    if error.errno == errno.EIO:
        hint = "restore it from a backup, and check the disk"
    elif isinstance(error, PermissionError):
        hint = "run the command as root"
    return File(path, error=error.strerror or "", hint=hint)


def _is_masked(directory: int, path: str) -> bool:
    parent, _, name = path.rpartition("/")
    fd = paths.open_in_root(directory, parent, os.O_PATH | os.O_DIRECTORY)
    try:
        return os.readlink(name, dir_fd=fd) == "/dev/null"
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: not a link
            raise
        return False
    finally:
        os.close(fd)


def open_directory(root: str, path: str) -> int:
    """The directory *path* of the machine, links resolved in *root*. Raises ``OSError``."""
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return paths.open_in_root(top, path, os.O_RDONLY | os.O_DIRECTORY)
    finally:
        os.close(top)


def read_text(root: str, path: str, unread: list[File] | None = None) -> str | None:
    """The text of the file *path* of the machine, ``None`` if it does not exist or cannot be read.

    Existing files that are not readable text are added to *unread*.
    """
    source = open_file(root, path)
    if source is None or source.error == os.strerror(errno.ENOTDIR):
        return None
    if source.content.startswith(codecs.BOM_UTF8):
        source = replace(
            source,
            error="it begins with a byte order mark, which would become part of the first word",
            hint="save it without a mark (BOM)",
        )
    if source.error:
        if unread is not None:
            unread.append(source)
        return None
    return source.content.decode("utf-8", "surrogateescape")
