"""The file in a store that says it is one, and which. Without it no boot wipes.

``apply`` writes it once, on the installed system.
"""

from __future__ import annotations

import os

from ephemeroot.errors import StoreMissing
from ephemeroot.linux import documents, paths

MARKER = ".ephemeroot-store"

NONE_YET = "(no marker yet)"
"""In a plan that is only shown, the id of a store that ``apply`` has not made yet."""


def read(store: int, path: str) -> str:
    """The id in the marker of the open *store*, which is called *path*. Raises ``StoreMissing``."""
    try:
        marker = paths.open_beneath(store, MARKER, os.O_RDONLY | os.O_NONBLOCK)
        try:
            content = documents.parse(documents.read_open(marker, MARKER, 4096))
        finally:
            os.close(marker)
        return str(content["id"])
    except FileNotFoundError:
        raise StoreMissing(
            f"what is mounted for {path} is no store: it has no {MARKER}",
            "'ephemeroot apply' writes it on the installed system",
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreMissing(f"the marker {MARKER} of {path} is damaged: {error}") from None
