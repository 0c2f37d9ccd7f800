"""Requirements of the plan's wipers, queried before an image is built.

A wiper may be another project's, and may have changed since the plan was made: its faults must be
found here, not at boot.
"""

from __future__ import annotations

from ephemeroot import amounts
from ephemeroot.errors import EphemerootError
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.plan import Plan
from ephemeroot.image.broken import Broken
from ephemeroot.wipers.contract import API, Needs, Wiper

_REPAIR = "repair or reinstall its package"


def needs(operation: Wipe) -> Needs:
    """The requirements of the wiper of *operation*. Raises ``Broken`` or ``Damaged``."""
    wiper = operation.load()
    name = f"the wiper {operation.wiper} ({operation.attribute})"
    if wiper.API != API:
        raise Broken(
            f"{name} was written for version {wiper.API} of the contract, but this program has "
            f"version {API}",
            "install a version of the wiper for this contract",
        )
    unknown = sorted(operation.settings.keys() - {option.name for option in wiper.OPTIONS})
    if unknown:
        raise Broken(
            f"{name} does not have the option {amounts.listed(unknown)}, which the applied plan "
            "sets",
            "run 'ephemeroot check', then 'ephemeroot apply'",
        )
    try:
        found = type(wiper).needs(wiper.settings)
    except EphemerootError:
        raise
    except Exception as error:  # third-party code may raise anything
        raise Broken(
            f"{name} does not list its requirements: {type(error).__name__}: {error}", _REPAIR
        ) from error
    if not isinstance(found, Needs):
        raise Broken(f"{name} does not list its requirements: it returned {found!r}", _REPAIR)
    return found


def of_root(plan: Plan) -> Wiper | None:
    """The wiper of the root, if the plan has one. Raises ``Damaged``."""
    wipe = plan.root_wipe()
    return wipe.load() if wipe is not None else None
