"""The equivalence of a store and the root: the SELinux policy labels both alike.

It is a line in the policy's ``file_contexts.subs``, as ``semanage fcontext -a -e`` writes it: a
relabelling then gives /persistent/etc/shadow the label of /etc/shadow.
"""

from __future__ import annotations

import os
import stat
import subprocess

from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.linux import paths
from ephemeroot.machine import files, labelling
from ephemeroot.machine.labels import SUBSTITUTIONS, Labels, equivalences, folder


def words(store: str, *, add: bool = True) -> list[str]:
    """The command that adds or removes it. ``-N``: the kernel's policy does not change by it, and
    a command in a base must not load the policy of the base.
    """
    if add:
        return ["semanage", "fcontext", "-a", "-N", "-e", "/", store]
    return ["semanage", "fcontext", "-d", "-N", "-e", "/", store]


def is_possible(root: str) -> bool:
    """Whether the machine whose root is *root* has a policy."""
    where = folder(root)
    return where is not None and files.open_file(root, f"{where}/file_contexts") is not None


def is_made(root: str, store: str) -> bool:
    """Whether the policy of the machine whose root is *root* has the equivalence. Raises
    ``Refused`` if it has the store equivalent to something else.
    """
    where = folder(root)
    other = equivalences(root, where).get(store) if where is not None else None
    if other not in (None, "/"):
        raise Refused(
            f"SELinux's policy labels {store} like {other}, not like /",
            f"remove that with 'semanage fcontext -d -e {other} {store}'",
        )
    return other is not None


def change(root: str, store: str, *, add: bool) -> str:
    """Add or remove it in the policy of the machine whose root is *root*; how that was done.

    Raises ``OSError`` or ``EphemerootError``.
    """
    if add is is_made(root, store):
        return "already present" if add else "already removed"
    if root == "/":
        # It is missing on most machines, and it refuses a policy that it does not manage.
        try:
            subprocess.run(words(store, add=add), capture_output=True, check=False)
        except FileNotFoundError:
            pass
        if add is is_made(root, store):
            return "by semanage"
    write(root, store, add=add)
    return f"in {SUBSTITUTIONS}"


def write(root: str, store: str, *, add: bool) -> None:
    """Add or remove it in the file itself, which is replaced as a whole, as by semanage. Raises
    ``OSError`` or ``EphemerootError``.
    """
    where = folder(root)
    if where is None:
        raise EphemerootError("SELinux is off: it has no policy")
    if any(character.isspace() for character in store):
        raise EphemerootError(f"SELinux's policy cannot have an equivalence for {store!r}")
    directory = files.open_directory(root, where)
    try:
        place = f"/proc/self/fd/{directory}/{SUBSTITUTIONS}"
        before, mode, label = b"", 0o644, None
        try:
            before = paths.read(place)
            mode = stat.S_IMODE(os.stat(place).st_mode)
            label = os.getxattr(place, labelling.ATTRIBUTE)
        except OSError:
            pass  # there is none yet, or it has no label
        lines = [line for line in before.splitlines() if line.split() != [os.fsencode(store), b"/"]]
        if add:
            lines.append(os.fsencode(store) + b" /")
        paths.write_atomically(place, b"".join(line + b"\n" for line in lines), mode)
        if label is not None:
            os.setxattr(place, labelling.ATTRIBUTE, label)
        else:
            labelling.Labelling(Labels.of(root), directory, where).settle([SUBSTITUTIONS])
    finally:
        os.close(directory)
