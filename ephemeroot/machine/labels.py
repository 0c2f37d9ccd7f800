"""SELinux labels of paths in the machine's policy (file_contexts(5))."""

from __future__ import annotations

import os
import stat
from functools import cached_property
from pathlib import Path

from ephemeroot.machine import files
from ephemeroot.machine.file_contexts import FileContexts
from ephemeroot.machine.libselinux import LibSelinux

SUBSTITUTIONS = "file_contexts.subs"
"""The policy's file with the administrator's equivalences (selabel_file(5))."""

_RULES = ("file_contexts", "file_contexts.homedirs", "file_contexts.local")
_SUBSTITUTIONS = ("file_contexts.subs_dist", SUBSTITUTIONS)


def folder(root: str, unread: list[files.File] | None = None) -> str | None:
    """The directory with the files of the policy of the machine whose root is *root*, as that
    machine names it; ``None`` if its SELinux is off. Files that cannot be read go to *unread*.
    """
    settings = _settings(files.read_text(root, "/etc/selinux/config", unread) or "")
    policy = settings.get("SELINUXTYPE", "")
    if not policy or "/" in policy or settings.get("SELINUX", "disabled") == "disabled":
        return None
    return f"/etc/selinux/{policy}/contexts/files"


def equivalences(root: str, where: str) -> dict[str, str]:
    """The paths that the policy with its files in *where* labels like others, and those others."""
    found: dict[str, str] = {}
    for name in _SUBSTITUTIONS:
        for line in (files.read_text(root, f"{where}/{name}") or "").splitlines():
            words = line.split()
            if len(words) >= 2 and not words[0].startswith("#"):
                found[words[0]] = words[1]
    return found


class Labels:
    """The labels of a policy; without a policy, no path has a label.

    *texts* are the policy's files by name. *folder* is where libselinux can read the same files.
    ``customizable`` are types that a relabelling does not change (customizable_types(5)).
    """

    def __init__(
        self,
        texts: dict[str, str] | None = None,
        folder: Path | None = None,
        customizable: frozenset[str] = frozenset(),
    ) -> None:
        self._texts = texts or {}
        self._folder = folder
        self.customizable = customizable
        self._found: dict[tuple[str, int], str | None] = {}

    @classmethod
    def of(cls, root: str, unread: list[files.File] | None = None) -> Labels:
        """The labels of the machine whose root is *root*; empty if its SELinux is off. Files that
        cannot be read go to *unread*.
        """
        where = folder(root, unread)
        if where is None:
            return cls()
        texts = {
            name: files.read_text(root, f"{where}/{name}", unread) or ""
            for name in (*_RULES, *_SUBSTITUTIONS)
        }
        place = Path(root) / where.lstrip("/")
        # The library would follow links to files of this machine.
        inside = place.resolve() == Path(root).resolve() / where.lstrip("/")
        types = files.read_text(root, f"{os.path.dirname(where)}/customizable_types", unread) or ""
        return cls(texts, place if inside else None, frozenset(types.split()))

    @property
    def are_known(self) -> bool:
        """Whether there is a policy."""
        return any(self._texts.values())

    def of_path(self, path: str, kind: int) -> str | None:
        """The label of *path*, a file of the type *kind* (``stat.S_IFLNK``); ``None`` if the policy
        has none for it.
        """
        if not self.are_known:
            return None
        key = (path, kind)
        if key not in self._found:
            self._found[key] = self._look_up(path, kind)
        return self._found[key]

    def of_directory(self, path: str) -> str | None:
        """The label of the directory *path*."""
        return self.of_path(path, stat.S_IFDIR)

    def _look_up(self, path: str, kind: int) -> str | None:
        if self._library is not None:
            try:
                return self._library.look_up(path, kind)
            except OSError:
                pass  # the library fails on a rule that it cannot use
        return self._rules.look_up(path, kind)

    @cached_property
    def _library(self) -> LibSelinux | None:
        if self._folder is None:
            return None
        try:
            return LibSelinux(self._folder / _RULES[0])
        except OSError:
            return None

    @cached_property
    def _rules(self) -> FileContexts:
        texts = {name: os.fsencode(text) for name, text in self._texts.items()}
        distribution, local = (texts.get(name, b"") for name in _SUBSTITUTIONS)
        return FileContexts((texts.get(name, b"") for name in _RULES), distribution, local)


def _settings(text: str) -> dict[str, str]:
    lines = [line.strip().partition("=") for line in text.splitlines()]
    return {key.strip(): value.strip() for key, _, value in lines if not key.startswith("#")}
