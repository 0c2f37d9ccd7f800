"""Declared directories, and the directories that lead to what is declared."""

from __future__ import annotations

from ephemeroot.hooks.operation import REQUIRED, Operation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.stage import Stage


class Parent(Operation):
    """Have the directory ``path`` in the store and in the root.

    Created in the store with ``user``, ``group`` and ``mode`` if it is not there; once
    it is, the store is right and the root gets the store's owner and mode.
    """

    KIND = "parent"
    FIELDS = (
        ("path", "path", REQUIRED),
        ("store", "path", REQUIRED),
        ("source", "relative path", REQUIRED),
        ("user", "user or group id", 0),
        ("group", "user or group id", 0),
        ("mode", "mode", 0o755),
    )
    __slots__ = ("group", "mode", "path", "source", "store", "user")
    path: str
    store: str
    source: str
    user: int
    group: int
    mode: int

    def describe(self) -> str:
        return f"have {self.path}, new ones as {self.user}:{self.group} {self.mode:04o}"

    def execute(self, stage: Stage) -> str:
        raise NotImplementedError


class Directory(Operation):
    """Put the store's directory ``source`` at ``path``, by ``method`` bind or symlink."""

    KIND = "directory"
    FIELDS = (
        ("path", "path", REQUIRED),
        ("store", "path", REQUIRED),
        ("source", "relative path", REQUIRED),
        ("method", "method", "bind"),
        ("options", "list of strings", []),
        ("user", "user or group id", 0),
        ("group", "user or group id", 0),
        ("mode", "mode", 0o755),
        ("initial", "initial", "previous"),
        ("required", "boolean", False),
    )
    __slots__ = (
        "group", "initial", "method", "mode", "options", "path", "required", "source", "store",
        "user",
    )  # fmt: skip
    path: str
    store: str
    source: str
    method: str
    options: list[str]
    user: int
    group: int
    mode: int
    initial: str
    required: bool

    def describe(self) -> str:
        options = f" ({','.join(self.options)})" if self.options else ""
        verb = "link" if self.method == "symlink" else self.method
        return (
            f"{verb} directory {self.path} from {self.store}{options}, "
            f"a new one as {self.user}:{self.group} {self.mode:04o}"
        )

    def execute(self, stage: Stage) -> str:
        raise NotImplementedError
