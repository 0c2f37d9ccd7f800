"""Which files make up the configuration, and their content.

The main file, then drop-ins: of all files ``conf.d/*.toml`` below /usr/lib/ephemeroot
and /etc/ephemeroot, by name; one in /etc replaces the one of the same name in /usr/lib,
and an empty file or a link to /dev/null only masks it (systemd.unit(5), sysusers.d(5)).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from ephemeroot.errors import Misconfigured
from ephemeroot.linux import documents, paths
from ephemeroot.machine import files
from ephemeroot.machine.files import File

MAIN = "/etc/ephemeroot/ephemeroot.toml"
PLAN = "/etc/ephemeroot/plan.json"
"""The applied plan, which ``apply`` writes: what the boot follows."""

DROP_INS = ("/usr/lib/ephemeroot/conf.d", "/etc/ephemeroot/conf.d")


def find(root: str, main: str | None = None) -> list[File]:
    """The files of the machine whose root directory is *root*, in the order they count.

    With *main*, only that file, whatever *root* has. Raises ``Misconfigured`` if there
    is not the main file, for drop-ins alone are not configuration.
    """
    if main is not None:
        return [_read_given(main)]
    content = files.open_file(root, MAIN)
    shown = files.show(root, MAIN)
    if content is None:
        raise Misconfigured(
            f"there is no configuration: {shown} does not exist", "write it, or name a file "
            "with --config"
        )  # fmt: skip
    found: dict[str, File] = {}
    for directory in DROP_INS:
        try:
            names = _names(root, directory)
        except OSError as error:
            unread = files.unreadable(files.show(root, directory), error)
            hint = "make it a directory" if isinstance(error, NotADirectoryError) else unread.hint
            found[directory] = replace(unread, drop_in=True, hint=hint)
            continue
        for name in names:
            path = f"{directory}/{name}"
            found.pop(name, None)
            source = files.open_file(root, path)
            if source is None:
                source = File(
                    files.show(root, path),
                    error="it is a dangling link",
                    hint="remove the link",
                )
            if source.error or source.content:
                found[name] = replace(source, drop_in=True)
    return [content, *(found[name] for name in sorted(found))]


def drafted(found: list[File], drafts: Mapping[str, bytes]) -> list[File]:
    """*found* with the content of *drafts*, by path; one that does not exist yet is a drop-in."""
    known = {source.path for source in found}
    main, *drop_ins = [
        replace(one, content=drafts[one.path], error="") if one.path in drafts else one
        for one in found
    ]
    drop_ins += [
        File(path, content, drop_in=True) for path, content in drafts.items() if path not in known
    ]
    return [main, *sorted(drop_ins, key=lambda one: os.path.basename(one.path))]


def _read_given(path: str) -> File:
    try:
        return File(path, documents.read(path, files.LARGEST))
    except (FileNotFoundError, NotADirectoryError):
        raise Misconfigured(f"there is no configuration: {path} does not exist") from None
    except OSError as error:
        return files.unreadable(path, error)
    except ValueError:  # a NUL in the path
        raise Misconfigured(f"{path!r} is not a path") from None


def _names(root: str, path: str) -> list[str]:
    try:
        fd = files.open_directory(root, path)
    except FileNotFoundError:
        return []
    try:
        names = paths.names(fd)
    finally:
        os.close(fd)
    return sorted(n for n in names if n.endswith(".toml") and not n.startswith("."))
