"""The configuration: TOML files in, typed and checked declarations out, all mistakes at once."""

from __future__ import annotations

from ephemeroot.config.examination import Examination, examine
from ephemeroot.config.machine import Machine
from ephemeroot.config.model import Configuration
from ephemeroot.config.problem import InvalidConfiguration, Place, Problem
from ephemeroot.config.reader import read

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
