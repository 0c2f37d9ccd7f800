"""Compiling configuration and machine into a plan: equal input gives equal bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from ephemeroot.config import (
    Configuration,
    Examination,
    InvalidConfiguration,
    Machine,
    Place,
    Problem,
    examine,
    network,
    volumes,
)
from ephemeroot.config.declared import WELL_KNOWN, Declared, Owner
from ephemeroot.config.entries import MACHINE_ID
from ephemeroot.config.model import Volume, Wiping
from ephemeroot.config.syntax import clean
from ephemeroot.errors import EphemerootError
from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.operations.copies import Copy
from ephemeroot.hooks.operations.directories import Directory, Parent
from ephemeroot.hooks.operations.files import File
from ephemeroot.hooks.operations.hide import Hide
from ephemeroot.hooks.operations.machine_id import MachineId
from ephemeroot.hooks.operations.network import Network
from ephemeroot.hooks.operations.overlays import Overlay
from ephemeroot.hooks.operations.volumes import Attach, MountVolume, Store
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.plan import Plan
from ephemeroot.hooks.records import NO_MARKER
from ephemeroot.linux import mounts
from ephemeroot.machine.labels import Labels
from ephemeroot.plan import identity, labelled

_NOT_A_ROOT: Mapping[str, str] = {}

HIDE = "x-gvfs-hide"
TRASH = "x-gvfs-trash"

_METHODS: dict[str, type[Operation]] = {"copy": Copy, "overlay": Overlay}
"""Methods that are operations of their own; ``Directory`` and ``File`` have the others."""

Made = TypeVar("Made", bound=Operation)


@dataclass(frozen=True, slots=True)
class Compilation:
    """A plan with the places in the configuration that its operations come from, in the same order.

    ``unmarked`` are the stores that have no marker yet; a plan with one of them can be shown, but
    not applied. ``warnings`` are those of the configuration.
    """

    plan: Plan
    wipe_places: tuple[Place, ...]
    persist_places: tuple[Place, ...]
    unmarked: tuple[str, ...]
    warnings: tuple[Problem, ...]


def compile_plan(config: Configuration, machine: Machine) -> Plan:
    """The plan of *machine*. Raises ``InvalidConfiguration`` with every mistake."""
    return compile_machine(config, machine).plan


def compile_machine(config: Configuration, machine: Machine) -> Compilation:
    """The plan of *machine* with its places and warnings.

    Raises ``InvalidConfiguration`` with every mistake in the configuration.
    """
    return compile_examination(examine(config, machine))


def compile_examination(examination: Examination) -> Compilation:
    """The plan of an examined configuration. Raises ``InvalidConfiguration``."""
    if examination.errors:
        raise InvalidConfiguration(examination.problems)
    config, machine = examination.config, examination.machine
    wipe = _wipe_stage(examination)
    persist = _persist_stage(examination)
    plan = Plan(
        wipe=wipe.operations,
        persist=persist.operations,
        on_failure=dict(config.on_failure),
        generation=machine.generation,
        host=machine.host_name,
        seed_limit=config.seed_limit,
        system=machine.system,
    )
    unmarked = tuple(s.path for s in config.stores if machine.store_id(s.path) is None)
    return Compilation(
        plan,
        tuple(wipe.places),
        tuple(persist.places),
        unmarked,
        tuple(problem for problem in examination.problems if problem.warning),
    )


@dataclass(slots=True)
class _Stage:
    """The operations of a stage, with their places."""

    operations: list[Operation] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)

    def add(self, operation: Operation, place: Place) -> None:
        self.operations.append(operation)
        self.places.append(place)


def _needed(examination: Examination) -> list[Volume]:
    return [volume for volume in examination.volumes if volume.needed_for_boot]


def _wipe_stage(examination: Examination) -> _Stage:
    """Mount and check the stores, then wipe; wiped volumes are mounted after their wipe."""
    stage = _Stage()
    needed = _needed(examination)
    _set_up_network(examination, needed, stage)
    for volume in needed:
        if volume.wipe is None:
            stage.add(_operation(MountVolume, volume), volume.place)
    for store in sorted(examination.config.stores, key=lambda s: clean.components(s.path)):
        stage.add(_store(store.path, examination), store.origin.place)
    wiping = examination.config.wiping
    if wiping is not None:
        known = identity.of_root(wiping, examination.machine)
        stage.add(_wipe("/", wiping, known), wiping.origin.place)
    for volume in needed:
        if volume.wipe is not None:
            stage.add(_wipe(volume.mount_point, volume.wipe), volume.wipe.origin.place)
            stage.add(_operation(MountVolume, volume), volume.place)
    return stage


def _set_up_network(examination: Examination, needed: list[Volume], stage: _Stage) -> None:
    entry = examination.config.network
    if entry is None or not network.is_needed(needed):
        return
    operation = Network(
        interface=entry.interface,
        addresses=list(entry.addresses),
        gateways=list(entry.gateways),
        timeout=network.patience(needed),
    )
    stage.add(operation, entry.origin.place)


def _store(path: str, examination: Examination) -> Store:
    volume = volumes.covering(path, examination.volumes)
    if volume is None:  # examine() refuses such a store
        raise EphemerootError(f"the store {path} is not on a volume", "run 'ephemeroot check'")
    return Store(
        path=path,
        volume=volume.name,
        below=path[len(volume.mount_point) :].strip("/"),
        id=examination.machine.store_id(path) or NO_MARKER,
    )


def _wipe(target: str, wiping: Wiping, known: Mapping[str, str] = _NOT_A_ROOT) -> Wipe:
    if wiping.plugin is None:  # examine() refuses a wiper that is missing
        raise EphemerootError(
            f"the wiper {wiping.wiper} is not installed", "run 'ephemeroot check'"
        )
    return Wipe(
        target=target,
        wiper=wiping.wiper,
        attribute=wiping.plugin.attribute,
        device=wiping.device,
        subvolume=wiping.subvolume,
        settings=dict(wiping.settings),
        identity=dict(known),
    )


def _persist_stage(examination: Examination) -> _Stage:
    """Attach the volumes, then provide declared paths and their parents, parents first."""
    stage = _Stage()
    for volume in _needed(examination):
        stage.add(Attach(mount_point=volume.mount_point, volume=volume.name), volume.place)
    steps = [
        (entry.path, 1, _entry(entry, examination.machine.labels), entry.place)
        for entry in examination.declared
    ]
    parents = _Parents(examination)
    steps += [(o.path, 0, o, place) for o, place in parents.operations()]
    # The sort is stable: parents of one path in two stores stay in the order of _Parents.
    for _, _, operation, place in sorted(steps, key=lambda s: (clean.components(s[0]), s[1])):
        stage.add(operation, place)
    _hide(examination, stage)
    label = labelled.operation(examination)
    if label is not None:
        stage.add(label, Place("/etc/selinux/config"))
    return stage


def _entry(entry: Declared, labels: Labels) -> Operation:
    """The operation of the path, with those options of the entry that it has fields for."""
    kind: type[Operation] = _METHODS.get(entry.options.method, File)
    if entry.path == MACHINE_ID:
        kind = MachineId
    elif entry.is_directory and kind is File:
        kind = Directory
    flags = [o for o in entry.options.mount_options if o in mounts.MOUNT_FLAGS]
    known = {"label": labels.of_directory(entry.path)} if hasattr(kind, "label") else {}
    return _operation(kind, entry, entry.owner, entry.options, options=flags, **known)


def _operation(kind: type[Made], *sources: object, **known: object) -> Made:
    """An operation. Its fields come from *known*, else from the first of *sources* that has an
    attribute of that name.
    """
    found = {}
    for option in kind.FIELDS:
        value = known.get(option.name, _MISSING)
        for source in sources:
            if value is not _MISSING:
                break
            value = getattr(source, option.name, _MISSING)
        if value is not _MISSING:
            found[option.name] = list(value) if isinstance(value, tuple) else value
    return kind(**found)


_MISSING = object()


class _Parents:
    """The directories that lead to the declared paths, in every store that needs them.

    Owner and mode of a directory in the root come from one store: the store whose declared
    directory contains it, else the first store with a path under it. In the other stores the
    directory only has to exist.
    """

    def __init__(self, examination: Examination) -> None:
        self.labels = examination.machine.labels
        self.homes = {home.path: home for home in examination.homes}
        self.directories = {d.path: d for d in examination.declared if d.is_directory}
        self.asked: dict[str, Declared] = {}
        self.needed: dict[tuple[str, str], Place] = {}
        for entry in examination.declared:
            parent = entry.path.rpartition("/")[0]
            if entry.parent.is_given:
                self.asked.setdefault(parent, entry)
            for path in clean.parents(entry.path):
                self._need(path, entry)

    def _need(self, path: str, entry: Declared) -> None:
        keeper = self._keeper(path)
        for store in (keeper, entry.store):
            if store is None:
                continue
            declared = self.directories.get(path)
            if declared is not None and declared.store == store:
                continue  # the operation of the declared path creates it
            self.needed.setdefault((path, store), entry.place)

    def _keeper(self, path: str) -> str | None:
        """The store of the innermost declared directory that is *path* or contains it."""
        for above in (path, *reversed(clean.parents(path))):
            if above in self.directories:
                return self.directories[above].store
        return None

    def operations(self) -> Iterable[tuple[Parent, Place]]:
        """An operation for each directory and store."""
        first: dict[str, str] = {}
        for path, store in self.needed:
            first.setdefault(path, self._keeper(path) or store)
        for (path, store), place in self.needed.items():
            owner = self._owner(path)
            yield (
                _operation(
                    Parent,
                    owner,
                    path=path,
                    store=store,
                    source=path.lstrip("/"),
                    explicit=path in self.asked,
                    store_only=first[path] != store,
                    label=self.labels.of_directory(path),
                ),
                place,
            )

    def _owner(self, path: str) -> Owner:
        """The configured owner, else the user in a home directory, else root."""
        default = Owner(0, 0, WELL_KNOWN.get(path, 0o755))
        declared = self.directories.get(path)
        if declared is not None:
            return declared.owner.over(default)
        for above in (path, *clean.parents(path)):
            home = self.homes.get(above)
            if home is not None:
                default = Owner(home.user, home.group, 0o700)
        asked = self.asked.get(path)
        return default if asked is None else asked.parent.over(default)


def _hide(examination: Examination, stage: _Stage) -> None:
    """Add one operation for each set of mount options, with all binds that get it."""
    marked: dict[tuple[str, ...], list[Declared]] = {}
    for entry in sorted(examination.declared, key=lambda d: clean.components(d.path)):
        marks = [o for o in entry.options.mount_options if o not in mounts.MOUNT_FLAGS]
        marks += [HIDE] * bool(entry.options.hide_mounts) + [TRASH] * bool(
            entry.options.allow_trash
        )
        if marks and entry.path != MACHINE_ID and entry.options.method not in ("symlink", "copy"):
            marked.setdefault(tuple(sorted(set(marks))), []).append(entry)
    for options in sorted(marked):
        entries = marked[options]
        paths = [entry.path for entry in entries]
        stage.add(Hide(paths=paths, options=list(options)), entries[0].place)
