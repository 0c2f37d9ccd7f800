"""The marker of a store by its path on the installed system, where a store may have none yet."""

from __future__ import annotations

from ephemeroot.errors import Damaged
from ephemeroot.hooks.markers import MARKER
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
