"""The one file between the installed system and the initramfs.

Canonical JSON: sorted keys, no white space, one newline at the end, with a checksum
over everything else (CRC-32, against damage, not against malice: who can write the
image owns the machine). A plan has a version of its format and a generation that grows
with each ``ephemeroot apply``.
"""

from __future__ import annotations

from binascii import crc32

from ephemeroot.errors import Damaged
from ephemeroot.hooks.operation import Persisted
from ephemeroot.hooks.operations import (
    copies,
    directories,
    files,
    hide,
    labels,
    machine_id,
    network,
    overlays,
)
from ephemeroot.hooks.operations.volumes import Attach, MountVolume, Store
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.store import machine_id_file, nesting, order
from ephemeroot.linux import documents, mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeGuard

    from ephemeroot.hooks.operation import Operation


FORMAT = "ephemeroot-plan"
VERSION = 1

FOLLOWED = "plan.json"
"""The file in the run directory with the plan that this boot has bound by."""

POLICIES = {
    "wipe": ("keep", "emergency", "reboot", "poweroff"),
    "store": ("emergency", "reboot", "poweroff"),
    "path": ("continue", "emergency", "reboot", "poweroff"),
}
"""What ``on-failure`` may say for each kind of failure, the default first."""


class Kinds:
    """The operations that a stage may have, by their ``KIND``. The module of one runs when a plan
    has it: a boot does without the others.
    """

    __slots__ = ("_classes",)

    def __init__(self, **classes: Callable[[], type[Operation]]) -> None:
        self._classes = {name.replace("_", "-"): ask for name, ask in classes.items()}

    def __contains__(self, kind: str) -> bool:
        return kind in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __getitem__(self, kind: str) -> type[Operation]:
        return self._classes[kind]()

    def values(self) -> list[type[Operation]]:
        """All of them."""
        return [self[kind] for kind in self]


WIPE_STAGE = Kinds(
    network=lambda: network.Network,
    volume=lambda: MountVolume,
    store=lambda: Store,
    wipe=lambda: Wipe,
)
PERSIST_STAGE = Kinds(
    attach=lambda: Attach,
    parent=lambda: directories.Parent,
    directory=lambda: directories.Directory,
    file=lambda: files.File,
    copy=lambda: copies.Copy,
    overlay=lambda: overlays.Overlay,
    machine_id=lambda: machine_id.MachineId,
    hide=lambda: hide.Hide,
    label=lambda: labels.Label,
)


SEED_LIMIT = 256 << 20
"""How many bytes seeding may really copy in the initramfs, unless the plan says otherwise."""

_SYSTEM = frozenset("0123456789abcdef")


class Plan:
    """A validated plan.

    ``wipe`` and ``persist`` are the two stages' operations, in the order in which they
    are carried out. ``on_failure`` maps ``wipe``, ``store`` and ``path`` to a policy.
    ``seed_limit`` is how many bytes may be copied for one newly declared path during the
    boot (bytes shared by reflink do not count). ``host`` is for people only. ``system`` is the
    id of the system that the plan is for, which owns its old roots; empty before ``apply`` has
    made one.
    """

    __slots__ = (
        "_nesting", "_owners", "_raw", "generation", "host", "on_failure", "persist", "seed_limit",
        "system", "wipe",
    )  # fmt: skip

    def __init__(
        self,
        *,
        wipe: list[Operation],
        persist: list[Operation],
        on_failure: dict[str, str] | None = None,
        generation: int = 0,
        host: str = "",
        seed_limit: int = SEED_LIMIT,
        system: str = "",
    ) -> None:
        self.system = system
        self.seed_limit = seed_limit
        self.generation = generation
        self.host = host
        self.on_failure = {kind: words[0] for kind, words in POLICIES.items()}
        for kind, policy in (on_failure or {}).items():
            if policy not in POLICIES.get(kind, ()):
                raise Damaged(f"plan: on-failure {kind} cannot be {policy!r}")
            self.on_failure[kind] = policy
        self.wipe = wipe
        self.persist = persist
        self._owners: order.Owners | None = None
        self._nesting: nesting.Nesting | None = None
        self._raw = b""

    def to_json(self) -> dict[str, object]:
        """The plan's content without its checksum."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "generation": self.generation,
            "host": self.host,
            "system": self.system,
            "seed-limit": self.seed_limit,
            "on-failure": self.on_failure,
            "wipe": [operation.to_json() for operation in self.wipe],
            "persist": [operation.to_json() for operation in self.persist],
        }

    def wipes(self) -> list[Wipe]:
        """The wipes, in their order."""
        return [operation for operation in self.wipe if isinstance(operation, Wipe)]

    def root_wipe(self) -> Wipe | None:
        """The wipe of the root; ``None`` if only volumes are wiped, or none."""
        return next((wipe for wipe in self.wipes() if wipe.target == "/"), None)

    def volumes(self) -> list[MountVolume]:
        """The volumes that are mounted privately before the wipe."""
        return [operation for operation in self.wipe if isinstance(operation, MountVolume)]

    def stores(self) -> list[Store]:
        """The stores, in the order in which they were declared."""
        return [operation for operation in self.wipe if isinstance(operation, Store)]

    def attached(self) -> list[Attach]:
        """The volumes that are attached under the new root, with their mount points there."""
        return [operation for operation in self.persist if isinstance(operation, Attach)]

    def declared(self) -> dict[str, str]:
        """The declared paths, each with its store."""
        found = {}
        for operation in self.persist:
            if isinstance(operation, Persisted):
                found[operation.path] = operation.store
            elif operation.KIND == "machine-id":
                found[machine_id_file.PATH] = nesting.store_of(operation)
        return found

    def owner(self, path: str) -> int:
        """The number of the user whose entry *path* is, see ``order``."""
        if self._owners is None:
            self._owners = order.Owners(self.persist)
        return self._owners.of(path)

    def nesting(self) -> nesting.Nesting:
        """Which declared paths are inside declared directories."""
        if self._nesting is None:
            self._nesting = nesting.Nesting(self.persist)
        return self._nesting

    def changed(
        self,
        *,
        wipe: list[Operation] | None = None,
        persist: list[Operation] | None = None,
        generation: int | None = None,
    ) -> Plan:
        """The same plan with other operations, or of another generation."""
        return Plan(
            wipe=self.wipe if wipe is None else wipe,
            persist=self.persist if persist is None else persist,
            on_failure=self.on_failure,
            generation=self.generation if generation is None else generation,
            host=self.host,
            seed_limit=self.seed_limit,
            system=self.system,
        )

    @property
    def mode(self) -> int:
        """The mode of a file with it: root's alone if a volume's options have a password."""
        options = [option for volume in self.volumes() for option in volume.options]
        return 0o600 if any(mounts.is_secret(o) for o in options) else 0o644

    def recorded(self) -> bytes:
        """The file that the plan was read from, else the one that ``dump`` makes."""
        return self._raw or self.dump()

    def dump(self) -> bytes:
        """The plan as it is written into the image: the same plan is the same bytes."""
        content = self.to_json()
        content["checksum"] = _checksum(content)
        return _canonical(content)


def load(path: str, packed: Callable[[bytes], dict[str, object] | None] | None = None) -> Plan:
    """Read and validate the plan in the file *path*. Raises ``Damaged``.

    *packed* returns the document of the file's content if that was validated before, as the plan
    of an image was.
    """
    try:
        raw = documents.read(path)
    except OSError as error:
        raise Damaged(f"cannot read the plan {path}: {error.strerror}", REBUILD) from error
    content = packed(raw) if packed is not None else None
    return parse(raw, path) if content is None else _from_json(content, raw, proven=True)


REBUILD = "boot with ephemeroot=no and run 'ephemeroot apply'"


def parse(raw: bytes, name: str = "plan") -> Plan:
    """Validate the plan in *raw*; *name* is for messages. Raises ``Damaged``."""
    try:
        content = documents.parse(raw)
    except ValueError as error:
        raise Damaged(f"{name} is damaged: {error}", REBUILD) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise Damaged(f"{name} is not in the format {FORMAT}", REBUILD)
    version = content.get("version")
    if version != VERSION:
        raise Damaged(
            f"{name} has version {version!r}, but this program supports version {VERSION}", REBUILD
        )
    checksum = content.pop("checksum", None)
    try:
        if checksum != _checksum(content):
            raise Damaged("its checksum does not match")
        return _from_json(content, raw)
    except Damaged as error:
        raise Damaged(f"{name} is damaged: {error.message}", REBUILD) from None
    except RecursionError:
        raise Damaged(f"{name} is damaged: it is nested too deeply", REBUILD) from None


def _from_json(content: dict[str, object], raw: bytes, *, proven: bool = False) -> Plan:
    generation = content.get("generation")
    host = content.get("host", "")
    system = content.get("system", "")
    seed_limit = content.get("seed-limit", SEED_LIMIT)
    on_failure = content.get("on-failure", {})
    if not _is_count(generation) or not isinstance(host, str):
        raise Damaged("generation or host has the wrong type")
    if not isinstance(system, str) or not set(system) <= _SYSTEM or len(system) > 64:
        raise Damaged("system is not a system id")
    if not _is_count(seed_limit):
        raise Damaged("seed-limit is not a number of bytes")
    if not isinstance(on_failure, dict):
        raise Damaged("on-failure is not a table")
    plan = Plan(
        wipe=_operations(content.get("wipe"), WIPE_STAGE, proven=proven),
        persist=_operations(content.get("persist"), PERSIST_STAGE, proven=proven),
        on_failure=on_failure,
        generation=generation,
        host=host,
        system=system,
        seed_limit=seed_limit,
    )
    plan._raw = raw
    return plan


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _operations(items: object, kinds: Kinds, *, proven: bool) -> list[Operation]:
    if not isinstance(items, list):
        raise Damaged("a stage is not a list")
    operations = []
    for item in items:
        if not isinstance(item, dict):
            raise Damaged("an operation is not a table")
        values = {key.replace("-", "_"): value for key, value in item.items()}
        kind = values.pop("operation", None)
        if not isinstance(kind, str) or kind not in kinds:
            raise Damaged(f"unknown operation {kind!r}")
        operations.append(kinds[kind].of(values) if proven else kinds[kind](**values))
    return operations


def _canonical(content: dict[str, object]) -> bytes:
    # ensure_ascii: paths that are not UTF-8 are surrogates in Python and must be kept.
    return documents.dump(content, compact=True) + b"\n"


def _checksum(content: dict[str, object]) -> str:
    return f"crc32:{crc32(_canonical(content)):08x}"
