"""Which files make up the configuration, and what is in them.

The main file, then drop-ins: of all files ``conf.d/*.toml`` below /usr/lib/ephemeroot
and /etc/ephemeroot, by name; one in /etc replaces the one of the same name in /usr/lib,
and an empty file or a link to /dev/null only masks it (systemd.unit(5), sysusers.d(5)).
"""

from __future__ import annotations

import codecs
import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ephemeroot.errors import Misconfigured
from ephemeroot.linux import documents, paths

MAIN = "/etc/ephemeroot/ephemeroot.toml"
PLAN = "/etc/ephemeroot/plan.json"
"""The applied plan, which ``apply`` writes: what the boot follows."""

DROP_INS = ("/usr/lib/ephemeroot/conf.d", "/etc/ephemeroot/conf.d")
LARGEST = 1 << 24
"""Bytes of any file that is read here; see ``toml`` for a configuration's."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file. ``path`` is how people find it; ``error`` is why it could not be read, ``hint``
    what to do then.
    """

    path: str
    content: bytes = b""
    error: str = ""
    drop_in: bool = False
    hint: str = ""


def find(root: str, main: str | None = None) -> list[Source]:
    """The files of the machine whose root directory is *root*, in the order they count.

    With *main*, only that file, whatever *root* has. Raises ``Misconfigured`` if there
    is no main file, for drop-ins alone are no configuration.
    """
    if main is not None:
        return [_read_given(main)]
    content = _open(root, MAIN)
    shown = show(root, MAIN)
    if content is None:
        raise Misconfigured(
            f"there is no configuration: {shown} does not exist", "write it, or name a file "
            "with --config"
        )  # fmt: skip
    found: dict[str, Source] = {}
    for directory in DROP_INS:
        try:
            names = _names(root, directory)
        except OSError as error:
            unread = _unread(show(root, directory), error)
            hint = "make it a directory" if isinstance(error, NotADirectoryError) else unread.hint
            found[directory] = replace(unread, drop_in=True, hint=hint)
            continue
        for name in names:
            path = f"{directory}/{name}"
            found.pop(name, None)
            source = _open(root, path)
            if source is None:
                source = Source(
                    show(root, path),
                    error="it is a link that leads nowhere",
                    hint="remove the link",
                )
            if source.error or source.content:
                found[name] = replace(source, drop_in=True)
    return [content, *(found[name] for name in sorted(found))]


def drafted(found: list[Source], drafts: Mapping[str, bytes]) -> list[Source]:
    """*found* with the content of *drafts*, by path; one that does not exist yet is a drop-in."""
    known = {source.path for source in found}
    main, *drop_ins = [
        replace(one, content=drafts[one.path], error="") if one.path in drafts else one
        for one in found
    ]
    drop_ins += [
        Source(path, content, drop_in=True) for path, content in drafts.items() if path not in known
    ]
    return [main, *sorted(drop_ins, key=lambda one: os.path.basename(one.path))]


def show(root: str, path: str) -> str:
    """*path* below *root* as a path of this machine, for people."""
    return path if root == "/" else root.rstrip("/") + path


def _read_given(path: str) -> Source:
    try:
        return Source(path, documents.read(path, LARGEST))
    except (FileNotFoundError, NotADirectoryError):
        raise Misconfigured(f"there is no configuration: {path} does not exist") from None
    except OSError as error:
        return _unread(path, error)
    except ValueError:  # a NUL in the path
        raise Misconfigured(f"{path!r} is not a path") from None


def _open(root: str, path: str) -> Source | None:
    """The file, links resolved as the machine itself would; ``None`` if it does not exist."""
    shown = show(root, path)
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _is_masked(directory, path):
            return Source(shown)
        # O_NONBLOCK: a fifo of that name must not make us wait for ever.
        fd = paths.open_in_root(directory, path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        return _unread(shown, OSError(error.errno or errno.EIO, os.strerror(error.errno or 5)))
    finally:
        os.close(directory)
    try:
        return Source(shown, documents.read_open(fd, shown, LARGEST))
    except OSError as error:
        return _unread(shown, error)
    finally:
        os.close(fd)


def _unread(path: str, error: OSError) -> Source:
    hint = "put a regular file in its place, or remove it"
    if error.errno == errno.EIO:
        hint = "restore it from a backup, and check the disk"
    elif isinstance(error, PermissionError):
        hint = "run it as root"
    return Source(path, error=error.strerror or "", hint=hint)


def _is_masked(directory: int, path: str) -> bool:
    parent, _, name = path.rpartition("/")
    fd = paths.open_in_root(directory, parent, os.O_PATH | os.O_DIRECTORY)
    try:
        return os.readlink(name, dir_fd=fd) == "/dev/null"
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: no link
            raise
        return False
    finally:
        os.close(fd)


def open_directory(root: str, path: str) -> int:
    """The directory *path* of the machine, links resolved as the machine itself would. Raises
    ``OSError``.
    """
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return paths.open_in_root(top, path, os.O_RDONLY | os.O_DIRECTORY)
    finally:
        os.close(top)


def _names(root: str, path: str) -> list[str]:
    try:
        fd = open_directory(root, path)
    except FileNotFoundError:
        return []
    try:
        names = paths.names(fd)
    finally:
        os.close(fd)
    return sorted(n for n in names if n.endswith(".toml") and not n.startswith("."))


def read_text(root: str, path: str, unread: list[Source] | None = None) -> str | None:
    """The text of the file *path* of the machine, ``None`` if it does not exist or cannot be read.

    A file that exists and is no use as text is added to *unread*.
    """
    source = _open(root, path)
    if source is None or source.error == os.strerror(errno.ENOTDIR):
        return None
    if source.content.startswith(codecs.BOM_UTF8):
        source = replace(
            source,
            error="it begins with a byte order mark, which becomes a part of its first word",
            hint="save it without a mark (BOM)",
        )
    if source.error:
        if unread is not None:
            unread.append(source)
        return None
    return source.content.decode("utf-8", "surrogateescape")
