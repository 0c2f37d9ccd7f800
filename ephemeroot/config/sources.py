"""The files of the configuration, and their content.

The main file is read first, then the drop-ins ``conf.d/*.toml`` of /usr/lib/ephemeroot and
/etc/ephemeroot, sorted by name. A drop-in in /etc replaces one of the same name in /usr/lib; an
empty file or a link to /dev/null masks it (systemd.unit(5), sysusers.d(5)).
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
"""The applied plan, which ``apply`` writes and the boot follows."""

DROP_INS = ("/usr/lib/ephemeroot/conf.d", "/etc/ephemeroot/conf.d")


def find(root: str, main: str | None = None) -> list[File]:
    """The files of the machine whose root directory is *root*, in the order of precedence.

    With *main*, only that file. Raises ``Misconfigured`` if the main file is missing: drop-ins
    alone are not a configuration.
    """
    if main is not None:
        return [_read_given(main)]
    content = files.open_file(root, MAIN)
    shown = files.show(root, MAIN)
    if content is None:
        raise Misconfigured(
            f"cannot read the configuration: {shown} does not exist",
            "run 'ephemeroot init' for a proposal, or name a file with --config",
        )  # fmt: skip
    found: dict[str, File] = {}
    for directory in DROP_INS:
        try:
            names = _names(root, directory)
        except OSError as error:
            unread = files.unreadable(files.show(root, directory), error)
            is_file = isinstance(error, NotADirectoryError)
            hint = "replace it with a directory" if is_file else unread.hint
            found[directory] = replace(unread, drop_in=True, hint=hint)
            continue
        for name in names:
            path = f"{directory}/{name}"
            found.pop(name, None)
            source = files.open_file(root, path)
            if source is None:
                source = File(
                    files.show(root, path),
                    error="it is a link to a missing file",
                    hint="remove the link",
                )
            if source.error or source.content:
                found[name] = replace(source, drop_in=True)
    return [content, *(found[name] for name in sorted(found))]


def drafted(found: list[File], drafts: Mapping[str, bytes]) -> list[File]:
    """*found* with the content of *drafts*, by path; a draft of a new file is a drop-in."""
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
        raise Misconfigured(
            f"cannot read the configuration: {path} does not exist",
            "name an existing file with --config",
        ) from None
    except OSError as error:
        return files.unreadable(path, error)
    except ValueError:  # a NUL in the path
        raise Misconfigured(
            f"{path!r} is not a path", "name an existing file with --config"
        ) from None


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
