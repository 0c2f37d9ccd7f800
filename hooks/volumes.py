"""Volumes needed for boot and the stores on them: mounted once, privately, before the wipe.

A wipe without its store is a machine without data. So each volume is mounted below
``/run/ephemeroot/volumes`` first (by the initramfs's own mount units, or by us), every
store proves that it is the one that was declared, and only then anything is wiped.
After the wipe the same mounts are attached under the new root.
"""

from __future__ import annotations

from ephemeroot.hooks.operation import REQUIRED, Operation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.stage import Stage

MARKER = ".ephemeroot-store"
"""The file in a store that says it is one. Written by ``apply``, never at boot."""

STATE = ".ephemeroot"
"""The directory in a store for our own records; root's alone."""


class Volume(Operation):
    """Mount ``device`` privately; ``name`` is its directory below the run directory."""

    KIND = "volume"
    FIELDS = (
        ("mount_point", "path", REQUIRED),
        ("name", "name", REQUIRED),
        ("device", "text", REQUIRED),
        ("type", "text", REQUIRED),
        ("options", "list of strings", []),
        ("timeout", "number of seconds", 90),
    )
    __slots__ = ("device", "mount_point", "name", "options", "timeout", "type")
    mount_point: str
    name: str
    device: str
    type: str
    options: list[str]
    timeout: int

    def describe(self) -> str:
        options = f" ({','.join(self.options)})" if self.options else ""
        return f"mount {self.type} {self.device}{options} privately, for {self.mount_point}"

    def execute(self, stage: Stage) -> str:
        raise NotImplementedError


class Store(Operation):
    """Require that ``below`` in ``volume`` is the store with the marker ``id``."""

    KIND = "store"
    FIELDS = (
        ("path", "path", REQUIRED),
        ("volume", "name", REQUIRED),
        ("below", "relative path", ""),
        ("id", "text", REQUIRED),
    )
    __slots__ = ("below", "id", "path", "volume")
    path: str
    volume: str
    below: str
    id: str

    def describe(self) -> str:
        return f"require that {self.path} is the store {self.id}"

    def execute(self, stage: Stage) -> str:
        raise NotImplementedError


class Attach(Operation):
    """Attach the private mount of ``volume`` at ``mount_point`` under the new root."""

    KIND = "attach"
    FIELDS = (("mount_point", "path", REQUIRED), ("volume", "name", REQUIRED))
    __slots__ = ("mount_point", "volume")
    mount_point: str
    volume: str

    def describe(self) -> str:
        return f"attach the volume {self.mount_point}"

    def execute(self, stage: Stage) -> str:
        raise NotImplementedError
