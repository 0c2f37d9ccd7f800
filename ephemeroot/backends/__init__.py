"""The installed halves of the backends: what ``init``, ``rehearse`` and ``base`` ask of them."""

from __future__ import annotations

from ephemeroot.config import plugins
from ephemeroot.config.syntax.problem import Mistake
from ephemeroot.errors import Damaged
from ephemeroot.machine import entry_points
from ephemeroot.wipers.contract import Wiper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.backends.contract import Backend


def of(wiper: Wiper) -> Backend:
    """The installed half of *wiper*. Raises ``Damaged`` if it cannot be loaded."""
    return kind(type(wiper))(wiper)


def kind(wiper: type[Wiper]) -> type[Backend]:
    """The class of the installed half of *wiper*. Raises ``Damaged``."""
    from ephemeroot.backends.contract import Backend

    named = str(vars(wiper).get("INSTALLED", ""))  # a derived wiper may do anything else
    if not named:
        return Backend
    what = f"the installed half of the wiper {wiper.NAME}"
    return entry_points.load(named, Backend, what, Damaged)


def installed() -> list[type[Backend]]:
    """The halves of all installed wipers, those that are for any machine last."""
    return sorted((kind(one) for one in _wipers()), key=lambda one: one.GENERAL)


def _wipers() -> list[type[Wiper]]:
    """The wipers that can be loaded, with their halves; `check` reports the others where they are
    configured.
    """
    found = []
    for name in plugins.names():
        try:
            wiper = plugins.find(name).wiper
            kind(wiper)
        except (Mistake, Damaged):
            continue
        found.append(wiper)
    return found


def answering(method: str) -> list[str]:
    """The names of the installed wipers whose backend has an answer of its own to *method*."""
    from ephemeroot.backends.contract import Backend

    return [
        one.NAME for one in _wipers() if getattr(kind(one), method) is not getattr(Backend, method)
    ]
