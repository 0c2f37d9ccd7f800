"""The file in a store that says it is one, and which.

``apply`` writes it once, on the installed system; the boot refuses to wipe without it
(``hooks/volumes.py`` reads it there).
"""

from __future__ import annotations

from ephemeroot.config.problem import Place, Problem
from ephemeroot.errors import Damaged
from ephemeroot.hooks.volumes import MARKER
from ephemeroot.linux import documents


def read(store: str) -> str | None:
    """The id in the marker of the store at the path *store*; ``None`` if there is no marker.

    Raises ``Damaged`` if there is one that cannot be read.
    """
    path = f"{store.rstrip('/')}/{MARKER}"
    try:
        content = documents.parse(documents.read(path, 4096))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Damaged(f"cannot read the marker {path}: {error.strerror}") from error
    except ValueError as error:
        raise Damaged(f"the marker {path} is damaged: {error}") from None
    identity = content.get("id") if isinstance(content, dict) else None
    if not isinstance(identity, str) or not identity:
        raise Damaged(f"the marker {path} is damaged: it has no id")
    return identity


_MISSING = "'ephemeroot apply' writes it"


def missing(place: Place, store: str) -> Problem:
    """The warning that *store* has no marker yet."""
    return Problem.at(place, f"the store {store} has no marker yet", _MISSING, warning=True)


def is_missing(problem: Problem) -> bool:
    """Whether *problem* is that warning."""
    return problem.warning and problem.hint == _MISSING
