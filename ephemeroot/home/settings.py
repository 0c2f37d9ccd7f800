"""The settings of ``home.toml``, from which the reader, its hints and the schema are made."""

from __future__ import annotations

from ephemeroot.config.syntax import clean, kinds
from ephemeroot.config.syntax.problem import Mistake
from ephemeroot.config.syntax.settings import Listed, Named, Setting, Table

METHODS = ("bindfs", "symlink")


class EntryPath(kinds.HomePath):
    """A path relative to the home and to the store."""

    def parse(self, value: object) -> str:
        """See ``Kind``."""
        try:
            return super().parse(value)
        except Mistake as mistake:
            if not isinstance(value, str):
                raise
            if value.startswith("/"):
                raise Mistake(mistake.reason, "leave out the home") from None
            if value and not value.strip("./"):
                raise Mistake(mistake.reason, "name directories and files under it") from None
            raise


class StorePath(kinds.AbsolutePath):
    """An absolute path, or one that starts with ``~/``."""

    word = 'an absolute path, or one that starts with "~/"'

    def parse(self, value: object) -> str:
        """See ``Kind``. ``~`` is not replaced."""
        if isinstance(value, str) and value.startswith("~/"):
            return f"~/{clean.inner(value[2:])}"
        try:
            return super().parse(value)
        except Mistake as mistake:
            if isinstance(value, str) and value and not value.startswith("/"):
                raise Mistake(mistake.reason, f"must be {self.word}") from None
            raise

    def schema(self) -> kinds.Schema:
        """See ``Kind``."""
        return {"type": "string", "pattern": "^(~?/)"}


DIRECTORY = Table((
    Setting("directory", EntryPath(), "the directory's path", required=True),
    Setting("method", kinds.Choice(METHODS), "how the home gets it"),
))  # fmt: skip

FILE = Table((
    Setting("file", EntryPath(), "the file's path", required=True),
))  # fmt: skip

STORE = Table((
    Setting("enable", kinds.Boolean(), "false: as if the store were not declared", True),
    Setting("directories", Listed(DIRECTORY, "directory"), "persistent directories", ()),
    Setting("files", Listed(FILE, "file"), "persistent files, as links", ()),
    Setting("default-directory-method", kinds.Choice(METHODS), "how the home gets directories "
            "without a method", "bindfs"),
    Setting("allow-other", kinds.Boolean(), "let other users, including root, access the bindfs "
            "mounts", False),
    Setting("remove-prefix-directory", kinds.Boolean(), "the first component of each entry is a "
            "package name (GNU Stow) that is removed in the home", False),
))  # fmt: skip

TOP = Table((
    Setting("persistence", Named(StorePath(), STORE), "stores and their persistent paths"),
))  # fmt: skip
