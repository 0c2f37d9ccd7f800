"""Bringing what persists back into the root: from the store to the place that its bind hides."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ephemeroot.conversion.mirror import Mirror, open_directory
from ephemeroot.errors import EphemerootError
from ephemeroot.hooks import tree
from ephemeroot.hooks.directories import Directory
from ephemeroot.hooks.files import File
from ephemeroot.hooks.overlays import Overlay
from ephemeroot.linux import kernel, mounts, paths, removal

Taken = Directory | File | Overlay
"""Operations whose paths the root does not have as its own."""


def bare_root(root: Path, *, writable: bool = False) -> int:
    """The root, open, without anything that is mounted in it: what the binds hide. Nothing can be
    written through it unless *writable*.
    """
    clone = mounts.clone_at(str(root), read_only=not writable)
    try:
        # The descriptor of a mount is O_PATH; reading it needs another one.
        return os.open(mounts.fd_path(clone), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(clone)


def bring(mirror: Mirror, operation: Taken, store: int, root: int, path: str) -> None:
    """Make what *root* has at *path* like what the store has, a link into the store too."""
    place = tree.resolve(root, os.path.dirname(path)).rstrip("/") + "/" + os.path.basename(path)
    parent, name = tree.open_parent(root, place)
    try:
        there = _lstat(parent, name)
        if there is None or not stat.S_ISLNK(there.st_mode):
            _fill(mirror, operation, store, parent, name)
        elif os.readlink(name, dir_fd=parent) == _in_store(operation):
            _replace_link(mirror, operation, store, parent, name)
        else:
            # The administrator's own link, such as /var/run: it leads somewhere in the root.
            os.close(parent)
            parent, name = tree.open_parent(root, tree.resolve(root, path))
            _fill(mirror, operation, store, parent, name)
    finally:
        os.close(parent)


def _in_store(operation: Taken) -> str:
    return f"{operation.store.rstrip('/')}/{operation.source}"


def _replace_link(mirror: Mirror, operation: Taken, store: int, parent: int, name: str) -> None:
    """In the place of a link into the store put what it leads to, at once and whole."""
    temporary = f".ephemeroot-new-{os.urandom(8).hex()}"
    try:
        _fill(mirror, operation, store, parent, temporary)
        if _lstat(parent, temporary) is None:
            os.unlink(name, dir_fd=parent)  # it led nowhere: the machine had no such file
        else:
            paths.rename(parent, temporary, parent, name, flags=paths.RENAME_EXCHANGE)
    finally:
        removal.remove(parent, temporary)


def _fill(mirror: Mirror, operation: Taken, store: int, parent: int, name: str) -> None:
    if isinstance(operation, File):
        _fill_file(mirror, operation, store, parent, name)
    else:
        _fill_directory(mirror, operation, store, parent, name)


def _fill_file(mirror: Mirror, operation: File, store: int, parent: int, name: str) -> None:
    try:
        source = paths.open_beneath(store, operation.source, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISREG(os.fstat(source).st_mode):
            raise EphemerootError(f"{operation.source} in the store is no regular file")
        if _lstat(parent, name) is None:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=parent))
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
        target = os.open(name, flags, dir_fd=parent)
        try:
            mirror.file(source, target, operation.path)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _fill_directory(
    mirror: Mirror, operation: Directory | Overlay, store: int, parent: int, name: str
) -> None:
    try:
        source = open_directory(store, operation.source)
    except FileNotFoundError:
        return
    try:
        if _lstat(parent, name) is None:
            os.mkdir(name, 0o700, dir_fd=parent)
        target = open_directory(parent, name)
        try:
            mirror.tree(source, target)
        finally:
            os.close(target)
    finally:
        os.close(source)


def remove(root: int, path: str) -> None:
    """Remove the file *path* of the open *root*; one that is not there is fine."""
    try:
        parent, name = tree.open_parent(root, tree.resolve(root, "/" + path))
    except OSError:
        return
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    finally:
        os.close(parent)


def sync(fd: int) -> None:
    """Make everything on the filesystem of the open *fd* survive a power cut."""
    if kernel.libc.syncfs(fd) != 0:
        kernel.raise_errno("syncfs")


def _lstat(directory: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
