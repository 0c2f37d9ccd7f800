"""Old images must not wipe.

Kernels keep their older images, and rescue images are built once and never pruned. Each
plan has a generation, and ``apply`` records the newest, with its plan, in every store.
"""

from __future__ import annotations

from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.hooks import limits, records
from ephemeroot.hooks.records import STATE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.stage import Stage

RECORD = f"{STATE}/generation"
PLAN = f"{STATE}/plan.json"


def require_newest(stage: Stage) -> None:
    """Raise ``Refused`` if a store knows a newer plan than this image's.

    A record that cannot be read counts as newer: guessing would let an old image wipe.
    """
    for path, newest in recorded(stage):
        if newest > stage.plan.generation:
            raise Refused(
                f"this image is of generation {stage.plan.generation}, but the store {path} has "
                f"generation {newest}: an older image does not wipe",
                "boot the newest image, or run 'ephemeroot apply' to rebuild all images",
            )


def recorded(stage: Stage) -> list[tuple[str, int]]:
    """Each store of the plan with the newest generation it knows; 0 if it knows none."""
    found = []
    for path in [store.path for store in stage.plan.stores()]:
        try:
            text = read_record(stage.store(path), RECORD).decode("ascii")
            found.append((path, int(text)))
        except FileNotFoundError:
            found.append((path, 0))
        except (OSError, ValueError, EphemerootError) as error:
            raise Refused(
                f"the generation recorded in the store {path} cannot be read: {error}",
                "run 'ephemeroot apply'",
            ) from None
    return found


def read_record(store: int, path: str) -> bytes:
    """A record of Ephemeroot's in the open *store*: root's, below a directory that is root's.

    Raises ``OSError`` if it is missing or too large, ``EphemerootError`` if it is another user's.
    """
    return records.read(store, path, limits.PLAN)
