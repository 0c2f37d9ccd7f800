"""Every verb that writes, under another umask: files get the modes that the program sets.

An administrator may have `umask 077`, a service `umask 0`: the first must not hide a file from the
users that need it, and the second must not let them write to it.
"""

from __future__ import annotations

import fnmatch

import pytest

import proof
from verb_cases import CASES, Case
from verb_machine import PROGRAM, Image

pytestmark = [
    pytest.mark.requires_loop,
    pytest.mark.requires_program("bindfs"),
    pytest.mark.requires_program("setpriv"),
]

WRITING = [case for case in CASES if case.changes and not case.daemons and not case.user]
"""Without the verbs of a user, whose files in the home may be private on purpose."""


def modes(image: Image, case: Case, umask: str) -> dict[str, str]:
    """The mode and owner of every file that the verb creates or changes in the machine."""
    name = case.id if case.prepare else ""
    with image.machine(name, case.prepare, booted=case.booted) as machine:
        if case.start is not None:
            case.start(machine)
        words = ["sh", "-c", f'umask {umask}; exec "$@"', "-", PROGRAM, *case.argv]
        done = machine.run(*words, user=case.user)
        assert done.code == case.code, done.err
        return {
            name: f"{entry.kind} {entry.mode:04o} {entry.owner}"
            for name, entry in machine.state().items()
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in case.varies)
        }


@pytest.mark.parametrize("case", proof.sample(WRITING, 6, seed=1), ids=lambda case: case.id)
def test_the_umask_changes_no_mode(case: Case, verb_image: Image) -> None:
    usual = modes(verb_image, case, "022")
    for umask in ("077", "000"):
        found = modes(verb_image, case, umask)
        changed = {
            name: f"{usual[name]} became {found[name]}"
            for name in usual.keys() & found.keys()
            if usual[name] != found[name]
        }
        assert changed == {}, f"umask {umask}"
