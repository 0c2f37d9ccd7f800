"""Declared files: bound if the store has them, else a link into the store."""

from __future__ import annotations

from ephemeroot.hooks.operation import REQUIRED, Operation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.stage import Stage


class File(Operation):
    """Put the store's file ``source`` at ``path``.

    ``method`` ``auto`` binds it if it exists in the store and links to it otherwise, as
    impermanence does; ``bind`` and ``symlink`` insist.
    """

    KIND = "file"
    FIELDS = (
        ("path", "path", REQUIRED),
        ("store", "path", REQUIRED),
        ("source", "relative path", REQUIRED),
        ("method", "method", "auto"),
        ("options", "list of strings", []),
        ("initial", "initial", "previous"),
        ("required", "boolean", False),
    )
    __slots__ = ("initial", "method", "options", "path", "required", "source", "store")
    path: str
    store: str
    source: str
    method: str
    options: list[str]
    initial: str
    required: bool

    def describe(self) -> str:
        options = f" ({','.join(self.options)})" if self.options else ""
        verb = {"auto": "bind or link", "symlink": "link"}.get(self.method, self.method)
        return f"{verb} file {self.path} from {self.store}{options}"

    def execute(self, stage: Stage) -> str:
        raise NotImplementedError
