"""The SELinux labels of all files that a boot may create, from the machine's policy."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ephemeroot.config.examination import Examination
from ephemeroot.config.syntax import clean
from ephemeroot.hooks.operations.labels import Label
from ephemeroot.hooks.operations.overlays import work_name
from ephemeroot.hooks.records import STATE
from ephemeroot.machine import files
from ephemeroot.machine.labels import Labels
from ephemeroot.wipers import skeleton

if TYPE_CHECKING:
    from ephemeroot.machine.labelling import New


def operation(examination: Examination) -> Label | None:
    """The operation that labels the files that the boot has created; ``None`` without a policy."""
    labels = examination.machine.labels
    records = labels.of_path(f"/{STATE}", stat.S_IFDIR)
    declared = examination.declared
    made = {f"/{name}" for name in skeleton.NAMES}
    directories = {*made, "/", *(d.path for d in declared if d.is_directory)}
    for path in (*(d.path for d in declared), *(v.mount_point for v in examination.volumes)):
        directories.update(clean.parents(path))
    directories.update(volume.mount_point for volume in examination.volumes)
    for entry in declared:
        if entry.options.method == "overlay":
            above = entry.path.rpartition("/")[0]
            work = f"{above}/{work_name(entry.path.lstrip('/'))}"
            directories.update((work, f"{work}/work"))
    files = {entry.path for entry in declared if not entry.is_directory}

    def find(paths: Iterable[str], kind: int) -> dict[str, str]:
        found = ((path, labels.of_path(path, kind)) for path in sorted(paths))
        return {path: label for path, label in found if label is not None}

    found = Label(
        directories=find(directories, stat.S_IFDIR),
        files=find(files, stat.S_IFREG),
        links=find(made | {entry.path for entry in declared}, stat.S_IFLNK),
        records=records,
    )
    return found if found.directories or found.files or found.links else None


def new(examination: Examination | None, *, dry_run: bool = False) -> New:
    """A context that labels the entries that a verb creates in the root and in the stores, if the
    boot would label them. It does nothing in a *dry_run*, without a policy, and without an
    *examination*.
    """
    # `check` compiles a plan, and labels nothing.
    from ephemeroot.machine.labelling import New

    if examination is None or dry_run or not examination.machine.labels.are_known:
        return New(Labels(), [])
    machine = examination.machine
    found = operation(examination)
    candidates = [path.strip("/") for path in found.paths] if found is not None else []
    tops = [machine.root, *(files.show(machine.root, s.path) for s in examination.config.stores)]
    return New(machine.labels, [(top, candidates) for top in tops])
