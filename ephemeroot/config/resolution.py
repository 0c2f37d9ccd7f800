"""The resolution of symbolic links in declared paths, inside the root.

Declarations are ordered, compared and checked by the resolved path: if ``/srv`` is a link to
``data/srv``, then ``/srv/www`` and ``/data/srv/www`` are the same.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TypeVar

from ephemeroot.config.syntax import clean
from ephemeroot.hooks import tree
from ephemeroot.linux import paths
from ephemeroot.machine import dynamic_users, files
from ephemeroot.machine.dynamic_users import DynamicDirectory

T = TypeVar("T")

_LINKS = 40  # the limit of the kernel, MAXSYMLINKS

STATES = ("/var/lib/", "/var/cache/", "/var/log/")
"""The parents of the directories of services. A directory of a service with DynamicUser= is in
``private`` there, with a link to it (systemd.exec(5)).
"""


class DirectoryCache:
    """Keeps the last directory open: consecutive declarations often have the same parent."""

    def __init__(self) -> None:
        self._key: object = None
        self._fd = -1
        self._error = 0

    def get(self, key: object, opened: Callable[[], int]) -> int:
        """The open directory of *key*; *opened* opens it if it is not the last one.

        Raises ``OSError`` if *opened* does so, or did so for the same *key*.
        """
        if key != self._key:
            self.close()
            self._key = key
            try:
                self._fd = opened()
            except OSError as error:
                self._error = error.errno or errno.EIO
                raise
        if self._fd < 0:
            raise OSError(self._error, os.strerror(self._error))
        return self._fd

    def close(self) -> None:
        """Close the directory."""
        if self._fd >= 0:
            os.close(self._fd)
        self._key, self._fd = None, -1

    __del__ = close


class Roots:
    """The live root in the directory *live*, and the root that the next boot makes.

    The next root begins as a copy of the open directory *base*. ``kept`` has its volumes and
    declared directories, each with a directory of the live root that has the same content. Without
    *base*, the next root is assumed to be like the live one.
    """

    def __init__(
        self,
        live: str,
        base: int | None = None,
        stores: Sequence[str] = (),
        kept: Iterable[str] = (),
    ) -> None:
        self.live = live
        self.base = base
        self.stores = stores
        self.kept = {path: path for path in kept}
        self._targets: dict[tuple[str, bool, int], str | None] = {}
        # Directories without links in their paths: many declared paths have the same parent.
        self._straight: set[tuple[str, bool, int]] = set()
        self._last = DirectoryCache()

    def resolve(self, path: str, *, follow_last: bool, live: bool = False) -> str:
        """*path* with symbolic links resolved in the next root, or in the *live* root. Missing
        components stay unchanged.

        As at boot, a link is followed only if root owns it and its directory, and not if it leads
        into a store: a boot has made such a link. With *follow_last*, a link at *path* itself is
        followed too.
        """
        head, _, name = path.rpartition("/")
        straight = (head, live, len(self.kept))
        left = list(reversed(clean.components(path)))
        done: list[str] = []
        if straight in self._straight:
            done, left = left[:0:-1], left[:1]
        links = 0
        while left:
            part = left.pop()
            if part == "..":
                del done[-1:]
                continue
            target = self._known_target(done, part, live=live) if left or follow_last else None
            if target is None:
                done.append(part)
                continue
            links += 1
            if links > _LINKS:
                return path
            if target.startswith("/"):
                done.clear()
            left += [name for name in reversed(target.split("/")) if name not in ("", ".")]
        found = "/" + "/".join(done)
        if found == path and name not in ("", ".", ".."):
            self._straight.add(straight)
        return self._private(found, live=live) if follow_last else found

    def kind(self, path: str, *, live: bool = False) -> int:
        """The type of *path* in the next root, or in the *live* root (``stat.S_IFREG``, …); 0 if it
        is missing or cannot be read. A link is not followed.
        """
        return self._ask(path, tree.kind_of, live=live) or 0

    def link(self, path: str, *, live: bool = False) -> str:
        """The target of the symbolic link *path*; empty if it is not a link."""
        return self._ask(path, _read_link, live=live) or ""

    def _ask(self, path: str, question: Callable[[int, str], T], *, live: bool) -> T | None:
        """The result of *question* for the open directory and the name of *path*; ``None`` if it
        fails.
        """
        directory, _, name = path.rpartition("/")
        key = (directory, live, self.base, len(self.kept))
        try:
            fd = self._last.get(key, lambda: self._open(directory or "/", live=live))
            return question(fd, name)
        except OSError:
            return None

    def _open(self, directory: str, *, live: bool) -> int:
        shown = directory if live or self.base is None else self._kept(directory)
        if shown is None:
            assert self.base is not None
            return paths.open_beneath(self.base, directory, tree.DIRECTORY)
        return os.open(files.show(self.live, shown), tree.DIRECTORY | os.O_CLOEXEC)

    def _kept(self, directory: str) -> str | None:
        """The path in the live root with the content that *directory* has in the next root;
        ``None`` if the base has the content.
        """
        for path in (directory, *reversed(clean.parents(directory))):
            if path in self.kept:
                return self.kept[path] + directory[len(path) :]
        return None

    def _known_target(self, above: list[str], name: str, *, live: bool) -> str | None:
        """``_target`` with a cache: many declared paths have the same parents."""
        key = ("/".join((*above, name)), live, len(self.kept))
        if key not in self._targets:
            self._targets[key] = self._target(above, name, live=live)
        return self._targets[key]

    def _target(self, above: list[str], name: str, *, live: bool) -> str | None:
        path = "/" + "/".join((*above, name))
        target = self._ask(path, _trusted_link, live=live)
        if target is None or any(clean.is_below(target, store) for store in self.stores):
            return None
        return target

    def _private(self, path: str, *, live: bool) -> str:
        """The private directory of a service with DynamicUser=, also if its link is missing:
        systemd makes both at the first start of the service.
        """
        if not path.startswith(STATES) or self.kind(path, live=live):
            return path
        above, _, name = path.rpartition("/")
        private = f"{above}/private/{name}"
        here = (self.kind(private, live=live), self.kind(private, live=True))
        if f"{above}/" in STATES and name != "private" and stat.S_IFDIR in here:
            return private
        found = self.dynamic.get(path)
        return path if found is None else found.private

    @cached_property
    def dynamic(self) -> dict[str, DynamicDirectory]:
        """Directories of services with DynamicUser= in both roots, by the path without private."""
        opened = os.open(self.live, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found = dynamic_users.directories(opened)
        finally:
            os.close(opened)
        if self.base is not None:
            found = {**dynamic_users.directories(self.base), **found}
        return found


def _read_link(directory: int, name: str) -> str:
    return os.readlink(name, dir_fd=directory)


def _trusted_link(directory: int, name: str) -> str | None:
    return tree.trusted_link(directory, name, name, missing_is_fine=True)
