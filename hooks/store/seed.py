"""Seeding: a newly declared path gets the content of the previous root.

After a path is declared, the next boot copies its content from the root into the store, before
the wipe. A path that the previous root lacks may be copied from the fresh root, so that an empty
bind does not hide the base's defaults. A copy is made in the store's own directory for that, made
durable, and moved to its place by one rename: a power cut leaves nothing or all of it.
"""

from __future__ import annotations

import errno
import os
import stat

from ephemeroot.hooks import records, tree
from ephemeroot.hooks.store import nesting, overlaid
from ephemeroot.hooks.store.seeding import SEEDING, Seeding
from ephemeroot.linux import paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from ephemeroot.hooks.stage import Stage
    from ephemeroot.hooks.store.seeding import Owner

    class DeclaredFile(Protocol):
        """An operation for a declared file, however the file is put in its place."""

        path: str
        store: str
        source: str
        user: int | None
        group: int | None
        mode: int | None

        def kinds(self, stage: Stage) -> tuple[int, ...]: ...


def seed(
    stage: Stage,
    root: int,
    path: str,
    store_path: str,
    source: str,
    *,
    kinds: tuple[int, ...],
    owner: Owner = (None, None, None),
) -> str:
    """Copy *path* of the open *root* to *source* in the store; say how much, or ``""``.

    *owner* is the user, group and mode that a file gets, ``None`` keeps the seed's.
    Nothing is copied if *root* has none, or none of the *kinds* (``stat.S_IFDIR``, ``S_IFREG``,
    ``S_IFLNK``), or if what it has was made by ourselves. A link at *path* itself is followed to a
    directory only.

    Everything that cannot be copied is left out if ``stage.allowance`` has ``omissions``, which
    then say so.
    Raises ``Refused`` if it is too large or the store takes nothing, and ``NotSeeded`` if it
    cannot be copied: the store is then unchanged.
    """
    found = _find(overlaid.below(stage, root), path, kinds)
    if found is None:
        return ""
    parent, name, ours = found
    try:
        if tree.links_to(parent, name, f"{store_path}/{source}"):
            return ""
        return Seeding(stage, path, store_path, source, owner, ours).run(parent, name)
    finally:
        os.close(parent)


def describe(path: str, store_path: str) -> str:
    """The line of a dry run for a path that its store lacks."""
    return f"seed {path} into the store {store_path}, if the previous root has it"


def store(
    stage: Stage, path: str, store_path: str, source: str, parent: int, name: str, aside: str = ""
) -> str:
    """Copy the entry *name* of the open *parent* to *source* in the store, for the declared *path*.
    The existing content is moved to the name *aside*, or removed if that exists. Say how much was
    copied; raises as ``seed``.
    """
    owner: Owner = (None, None, None)
    return Seeding(stage, path, store_path, source, owner, [], aside).run(parent, name)


def seed_file(stage: Stage, file: DeclaredFile, root: int) -> str:
    """The same for a declared file: the store's file gets the configured owner and mode."""
    owner, kinds = (file.user, file.group, file.mode), file.kinds(stage)
    return seed(stage, root, file.path, file.store, file.source, kinds=kinds, owner=owner)


def make_directory(
    store: int,
    source: str,
    user: int,
    group: int,
    mode: int,
    label: str | None = None,
    *,
    opaque: bool = False,
) -> None:
    """Create the directory *source* of the open *store*, see ``tree.make_directory``.

    It is made in the store's own directory, which ``seeding.sweep`` clears: the rest after a power
    cut does not stay in the store, and no user can exchange it. Below a mount or another
    subvolume that is not possible, and it is made where it will be.
    """
    workshop = records.open_folder(store, SEEDING)
    try:
        parent, name = tree.open_parent(store, source)
        wanted = (parent, name, user, group, mode, label)
        try:
            try:
                tree.make_directory(*wanted, workshop=workshop, opaque=opaque)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                tree.make_directory(*wanted, opaque=opaque)
        finally:
            os.close(parent)
    finally:
        os.close(workshop)


def give_directory(store: int, source: str, user: int, group: int, mode: int) -> None:
    """Give the directory *source* of the open *store* the declared attributes."""
    fd = paths.open_beneath(store, source, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fchown(fd, user, group)
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


def _find(root: int, path: str, kinds: tuple[int, ...]) -> tuple[int, str, list[str]] | None:
    """The open directory and the name of *path*, if it is of one of the *kinds*, and the
    paths that the persistence stage created in it, relative to it.
    """
    try:
        place = (tree.resolve if kinds == (stat.S_IFDIR,) else tree.resolve_leaf)(root, path)
        parent, name = tree.open_parent(root, place)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        os.close(parent)
        return None
    ours = records.made(root)
    if stat.S_IFMT(status.st_mode) not in kinds or (
        place in ours and not _has_content(root, place, ours)
    ):
        os.close(parent)
        return None
    above = place.rstrip("/") + "/"
    return parent, name, [p[len(above) :] for p in ours if p.startswith(above)]


def _has_content(root: int, place: str, ours: frozenset[str]) -> bool:
    """Whether *place*, which is one of *ours* (what the persistence stage made in *root*), has more
    in it: a directory that leads to a declared path may have got content of its own. A place to
    mount on is not a source.
    """
    leading = nesting.leading_in(root)
    if place not in leading:
        return False
    waiting = [place]
    while waiting:
        directory = waiting.pop()
        fd = paths.open_beneath(root, directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            inside = [f"{directory}/{name}" for name in paths.names(fd)]
        finally:
            os.close(fd)
        if not ours.issuperset(inside):
            return True
        waiting += leading.intersection(inside)
    return False
