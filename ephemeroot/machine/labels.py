"""SELinux labels of paths in the machine's policy (file_contexts(5))."""

from __future__ import annotations

import os
import stat
from functools import cached_property
from pathlib import Path

from ephemeroot.machine import files
from ephemeroot.machine.file_contexts import FileContexts
from ephemeroot.machine.libselinux import LibSelinux

_RULES = ("file_contexts", "file_contexts.homedirs", "file_contexts.local")
_SUBSTITUTIONS = ("file_contexts.subs_dist", "file_contexts.subs")


class Labels:
    """The labels of a policy; without a policy, no path has a label.

    *texts* are the policy's files by name. *folder* is where libselinux can read the same files.
    """

    def __init__(self, texts: dict[str, str] | None = None, folder: Path | None = None) -> None:
        self._texts = texts or {}
        self._folder = folder
        self._found: dict[tuple[str, int], str | None] = {}

    @classmethod
    def of(cls, root: str, unread: list[files.File] | None = None) -> Labels:
        """The labels of the machine whose root is *root*; empty if its SELinux is off. Files that
        cannot be read go to *unread*.
        """
        settings = _settings(files.read_text(root, "/etc/selinux/config", unread) or "")
        policy = settings.get("SELINUXTYPE", "")
        if not policy or "/" in policy or settings.get("SELINUX", "disabled") == "disabled":
            return cls()
        folder = f"etc/selinux/{policy}/contexts/files"
        texts = {
            name: files.read_text(root, f"/{folder}/{name}", unread) or ""
            for name in (*_RULES, *_SUBSTITUTIONS)
        }
        place = Path(root) / folder
        # The library would follow links to files of this machine.
        inside = place.resolve() == Path(root).resolve() / folder
        return cls(texts, place if inside else None)

    def of_path(self, path: str, kind: int) -> str | None:
        """The label of *path*, a file of the type *kind* (``stat.S_IFLNK``); ``None`` if the policy
        has none for it.
        """
        if not any(self._texts.values()):
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
