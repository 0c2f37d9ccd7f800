"""Copying a persistent path from the store into the root, where its bind hides it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ephemeroot.hooks import tree
from ephemeroot.hooks.operations.directories import Directory
from ephemeroot.hooks.operations.files import File
from ephemeroot.hooks.operations.overlays import Overlay
from ephemeroot.linux import mounts, paths, workshop
from ephemeroot.linux.workshop import Workshop
from ephemeroot.mirror.likeness import lstat
from ephemeroot.mirror.run import COPY
from ephemeroot.mirror.tree import Mirror, open_directory

Bound = Directory | File | Overlay
"""Operations whose paths are in the store and not in the root."""


def bare_root(root: Path, *, writable: bool = False) -> int:
    """Open the root without the mounts in it, so that paths under binds are visible. The
    descriptor is read-only unless *writable*.
    """
    clone = mounts.clone_at(str(root), read_only=not writable)
    try:
        # The descriptor of a mount is O_PATH, which cannot be read from.
        return os.open(mounts.fd_path(clone), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(clone)


def copy(
    mirror: Mirror, operation: Bound, store: int, root: int, path: str, live: Path | None = None
) -> None:
    """Make *path* in the open *root* like its source in the store. A link into the store is
    replaced.

    *live* is where the root is mounted, if *root* is from ``bare_root``.
    """
    place = tree.resolve(root, os.path.dirname(path)).rstrip("/") + "/" + os.path.basename(path)
    parent, name = tree.open_parent(root, place)
    try:
        workshop.sweep(parent)
        present = lstat(parent, name)
        if present is None or not stat.S_ISLNK(present.st_mode):
            _fill(mirror, operation, store, parent, name, pinned=_is_pinned(parent, place, live))
        elif os.readlink(name, dir_fd=parent) == _in_store(operation):
            _replace_link(mirror, operation, store, parent, name, present)
        else:
            # Another link, such as /var/run: its target is in the root.
            os.close(parent)
            place = tree.resolve(root, path)
            parent, name = tree.open_parent(root, place)
            workshop.sweep(parent)
            _fill(mirror, operation, store, parent, name, pinned=_is_pinned(parent, place, live))
    finally:
        os.close(parent)


def _is_pinned(parent: int, place: str, live: Path | None) -> bool:
    """Whether no user can rename the entry *place*: it is a mount point in the *live* root, or its
    directory, open as *parent*, is hidden by a mount.
    """
    if live is None:
        return False
    root = os.open(live, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        seen, name = tree.open_parent(root, place)
    except OSError:
        return False
    finally:
        os.close(root)
    try:
        if not os.path.samestat(os.fstat(seen), os.fstat(parent)):
            return True
        return tree.exists(seen, name) and tree.is_mount_point(seen, name)
    finally:
        os.close(seen)


def _in_store(operation: Bound) -> str:
    return f"{operation.store.rstrip('/')}/{operation.source}"


def _replace_link(
    mirror: Mirror, operation: Bound, store: int, parent: int, name: str, link: os.stat_result
) -> None:
    """Replace a link into the store atomically with a copy of its target."""
    with Workshop(parent) as shop:
        _fill(mirror, operation, store, shop.fd, COPY, pinned=True)
        if lstat(shop.fd, COPY) is None:
            shop.take(name, link)  # a dangling link: the file did not exist
        else:
            mirror.arrive(shop, name, operation.path, link)


def _fill(
    mirror: Mirror, operation: Bound, store: int, parent: int, name: str, *, pinned: bool
) -> None:
    try:
        if isinstance(operation, File):
            source = paths.open_regular(store, operation.source)
        else:
            source = open_directory(store, operation.source)
    except FileNotFoundError:
        return
    try:
        if isinstance(operation, File):
            mirror.file(source, parent, name, operation.path)
        else:
            mirror.directory(source, parent, name, pinned=pinned)
    finally:
        os.close(source)


def remove(root: int, path: str) -> None:
    """Remove the file *path* of the open *root*, if it exists."""
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
