"""SELinux labels of paths, as the machine's policy has them (file_contexts(5))."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ephemeroot.machine import files

_FILES = ("file_contexts", "file_contexts.homedirs", "file_contexts.local")
_SUBSTITUTIONS = ("file_contexts.subs_dist", "file_contexts.subs")
_SPECIAL = re.compile(r"[.^$?*+|\[({]")


@dataclass(frozen=True, slots=True)
class _Rule:
    """``stem`` is what every path that matches begins with."""

    pattern: str
    stem: str
    exact: bool
    label: str | None


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of a policy for directories; without a policy nothing has one."""

    rules: tuple[_Rule, ...] = ()
    substitutions: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, root: str, unread: list[files.File] | None = None) -> Labels:
        """Those of the machine whose root is *root*; none if its SELinux is off. Files that cannot
        be read go to *unread*.
        """
        settings = _settings(files.read_text(root, "/etc/selinux/config", unread) or "")
        policy = settings.get("SELINUXTYPE", "")
        if not policy or "/" in policy or settings.get("SELINUX", "disabled") == "disabled":
            return cls()
        folder = f"/etc/selinux/{policy}/contexts/files"
        texts = [files.read_text(root, f"{folder}/{name}", unread) or "" for name in _FILES]
        pairs = [files.read_text(root, f"{folder}/{name}", unread) or "" for name in _SUBSTITUTIONS]
        return cls(
            tuple(_rules(line for text in texts for line in text.splitlines())),
            tuple(
                (words[0].rstrip("/"), words[1].rstrip("/"))
                for text in pairs
                for line in text.splitlines()
                if len(words := line.split()) == 2 and not line.startswith("#")
            ),
        )

    def of_directory(self, path: str) -> str | None:
        """The label of the directory *path*, ``None`` if the policy has none for it.

        As libselinux looks it up: what is written without special characters first, then
        the last rule that matches the whole path.
        """
        for alias, real in self.substitutions:
            if path == alias or path.startswith(f"{alias}/"):
                path = real + path[len(alias) :]
                break
        found = None
        for rule in self.rules:
            if found is not None and found.exact and not rule.exact:
                continue
            if not path.startswith(rule.stem):
                continue
            if rule.pattern == path if rule.exact else re.fullmatch(rule.pattern, path):
                found = rule
        return found.label if found else None


def _settings(text: str) -> dict[str, str]:
    lines = [line.strip().partition("=") for line in text.splitlines()]
    return {key.strip(): value.strip() for key, _, value in lines if not key.startswith("#")}


def _rules(lines: Iterable[str]) -> Iterable[_Rule]:
    """The rules that can match a directory; a line that is not a rule is passed over."""
    for line in lines:
        words = line.split()
        if len(words) not in (2, 3) or line.lstrip().startswith("#"):
            continue
        if len(words) == 3 and words[1] != "-d":
            continue
        pattern, label = words[0], None if words[-1] == "<<none>>" else words[-1]
        plain = pattern.replace("\\.", "\0")
        special = _SPECIAL.search(plain) or re.search(r"\\", plain)
        if special is None:
            path = plain.replace("\0", ".")
            yield _Rule(path, path, True, label)
            continue
        try:
            re.compile(pattern)
        except re.error:
            continue  # PCRE that Python's does not know
        stem = plain[: special.start()].replace("\0", ".")
        if "|" in plain:
            stem = ""
        elif plain[special.start()] in "?*{":
            stem = stem[:-1]  # what is before it need not be there
        yield _Rule(pattern, stem, False, label)
