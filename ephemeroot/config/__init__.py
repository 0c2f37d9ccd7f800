"""The configuration: reads TOML files, and checks them with all errors in one run."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.config.examination import Examination, examine
    from ephemeroot.config.model import Configuration
    from ephemeroot.config.reader import read
    from ephemeroot.config.syntax.problem import InvalidConfiguration, Place, Problem
    from ephemeroot.machine.facts import Machine

__all__ = [
    "Configuration",
    "Examination",
    "InvalidConfiguration",
    "Machine",
    "Place",
    "Problem",
    "examine",
    "read",
]

# Imported at the first access (PEP 562): verbs that need only the machine read no TOML.
_MODULES = {
    "Configuration": "config.model",
    "Examination": "config.examination",
    "InvalidConfiguration": "config.syntax.problem",
    "Machine": "machine.facts",
    "Place": "config.syntax.problem",
    "Problem": "config.syntax.problem",
    "examine": "config.examination",
    "read": "config.reader",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"ephemeroot.{_MODULES[name]}"), name)
    globals()[name] = found
    return found
