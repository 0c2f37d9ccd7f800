"""Wrong labels in the simulated root, by the SELinux policy."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from ephemeroot import amounts
from ephemeroot.hooks.operations.labels import Label
from ephemeroot.hooks.plan import Plan
from ephemeroot.linux import mountinfo, walk
from ephemeroot.linux.bounds import Bounds, Meter, OutOfBounds
from ephemeroot.machine.labelling import Different, Labelling
from ephemeroot.machine.labels import Labels
from ephemeroot.simulate.findings import WARNING, Finding

_MOST = 5000
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_IN_MEMORY = ("tmpfs", "ramfs")


def look(fresh: Path, plan: Plan) -> list[Finding]:
    """A warning for each declared path of the root at *fresh* that has wrong labels, by its own
    policy, and one for other paths that the boot has made.
    """
    labels = Labels.of(str(fresh))
    if not labels.are_known:
        return []
    declared = plan.declared()
    found = []
    for path, store in declared.items():
        wrong = list(_below(fresh, path, labels))
        if wrong:
            place = shlex.quote(f"{store}{path}")
            found.append(_finding(wrong, path, f"run 'restorecon -RFv {place}'"))
    mount = mountinfo.mounted_at(str(fresh))
    if mount is None or mount.fstype not in _IN_MEMORY:
        made = {path for o in plan.persist if isinstance(o, Label) for path in o.paths}
        paths = sorted(path for path in made if path not in declared)
        wrong = [one for path in paths for one in _at(fresh, path, labels)]
        if wrong:
            where = " ".join(shlex.quote(one.name) for one in wrong)
            hint = f"run 'restorecon -Fv {where}' in the base, and on the stores"
            found.append(_finding(wrong, "the new root", hint))
    return found


def _finding(wrong: list[Different], where: str, hint: str) -> Finding:
    shown = amounts.listed([f"{o.name} ({o.present}, not {o.wanted})" for o in wrong], 3)
    return Finding(WARNING, f"{where}: the label differs from the SELinux policy: {shown}", hint)


def _at(fresh: Path, path: str, labels: Labels) -> Iterator[Different]:
    """The entry *path* itself, which may be a mount point."""
    try:
        fd = os.open(fresh / path.strip("/"), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        yield from Labelling(labels, fd, path).different_itself()
    finally:
        os.close(fd)


def _below(fresh: Path, path: str, labels: Labels) -> Iterator[Different]:
    """The declared *path*, and the first entries under it."""
    yield from _at(fresh, path, labels)
    try:
        fd = os.open(fresh / path.strip("/"), _DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return
    labelling = Labelling(labels, fd, path)
    try:
        for name, _ in walk.below(fd, ".", Meter(Bounds(entries=_MOST))):
            for one in labelling.different([name]):
                yield Different(f"{path}/{one.name}", one.present, one.wanted)
    except (OSError, OutOfBounds):
        pass
    finally:
        os.close(fd)
