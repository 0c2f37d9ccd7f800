"""The request of ``ephemeroot next-boot`` for one boot, recorded in a store.

For machines whose kernel command line cannot be edited. The kernel command line takes
precedence. It is read before the wipe and removed by the persistence stage, so an interrupted
boot follows it again.
"""

from __future__ import annotations

import errno
import os

from ephemeroot.errors import Damaged, EphemerootError, Refused
from ephemeroot.hooks.guards import generation
from ephemeroot.hooks.records import STATE
from ephemeroot.linux import documents, paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.stage import Stage

NAME = "next-boot"
RECORD = f"{STATE}/{NAME}"

FORMAT = "ephemeroot-next-boot"
VERSION = 1

KEEP, WIPE, ROOT = "keep", "wipe", "root"


class Request:
    """``word`` is ``KEEP``, ``WIPE`` or ``ROOT``; ``root`` names the old root to boot.

    Raises ``Damaged`` for anything else.
    """

    __slots__ = ("root", "word")

    def __init__(self, word: str, root: str | None = None) -> None:
        if word not in (KEEP, WIPE, ROOT):
            raise Damaged(f"the request for the next boot is unknown: {word!r}")
        if (word == ROOT) != bool(root):
            raise Damaged(f"the request for the next boot is {word!r} with the old root {root!r}")
        self.word = word
        self.root = root

    def describe(self) -> str:
        """What the boot is asked to do."""
        if self.word == KEEP:
            return "keep the root as it is"
        if self.word == WIPE:
            return "make the root fresh"
        return f"make the root a copy of the old root {self.root}"

    def words(self) -> str:
        """The words of the command that asks for it."""
        return f"next-boot {self.word}" + (f" {self.root}" if self.root else "")

    def dump(self) -> bytes:
        """The record's content."""
        content = {"format": FORMAT, "version": VERSION, "request": self.word, "root": self.root}
        return documents.dump(content) + b"\n"


def parse(raw: bytes) -> Request:
    """The request in *raw*. Raises ``Damaged``."""
    try:
        content = documents.parse(raw)
    except ValueError as error:
        raise Damaged(f"the request for the next boot is damaged: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise Damaged(f"the request for the next boot is not in the format {FORMAT}")
    if content.get("version") != VERSION:
        raise Damaged(
            f"the request for the next boot has version {content.get('version')!r}, but this "
            f"program supports version {VERSION}"
        )
    word, root = content.get("request"), content.get("root")
    if not isinstance(word, str) or not (root is None or isinstance(root, str)):
        raise Damaged("the request for the next boot has the wrong types")
    return Request(word, root)


def find(stage: Stage) -> Request | None:
    """The request in the stores of the plan. Raises ``Refused`` if it cannot be followed."""
    found: dict[bytes, Request] = {}
    for path in _stores(stage):
        try:
            request = parse(generation.read_record(stage.store(path), RECORD))
        except FileNotFoundError:
            continue
        except (EphemerootError, OSError) as error:
            reason = error.message if isinstance(error, EphemerootError) else error.strerror
            raise Refused(
                f"cannot follow the request {RECORD} in the store {path}: {reason}",
                "write the request again with 'ephemeroot next-boot'",
            ) from None
        found[request.dump()] = request
    if len(found) > 1:
        raise Refused(
            "the stores have different requests for the next boot: "
            + ", ".join(sorted(request.words() for request in found.values())),
            "run 'ephemeroot next-boot --clear' to remove all of them",
        )
    return next(iter(found.values()), None)


def consume(stage: Stage) -> None:
    """Remove the request, also one that could not be followed: it was for this boot only.

    One that cannot be removed is a problem: the next boot would follow it again.
    """
    for path in _stores(stage):
        try:
            remove(stage.store(path))
        except OSError as error:
            stage.report.problem(
                f"cannot remove {RECORD} from the store {path}: {error.strerror}",
                "the next boot follows it again; remove it with 'ephemeroot next-boot --clear'",
            )


def remove(store: int) -> bool:
    """Remove the request from the open directory *store*, so that a power cut does not bring
    it back; whether there was one. Raises ``OSError``.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK
    try:
        directory = paths.open_beneath(store, STATE, flags)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return False
        raise
    try:
        os.unlink(NAME, dir_fd=directory)
        os.fsync(directory)
    except FileNotFoundError:
        return False
    finally:
        os.close(directory)
    return True


def _stores(stage: Stage) -> list[str]:
    return [store.path for store in stage.plan.stores()]
