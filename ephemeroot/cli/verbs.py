"""The verbs: names and one line each, known without importing what they do."""

from __future__ import annotations

import os

VERBS = {
    "init": "look at this machine and print a configuration for it, with what is left to do",
    "check": "look for mistakes in the configuration and show all of them",
    "plan": "show what a boot will do, and where each step was declared",
    "rehearse": "play the next boot on a throw-away root, and say what it would lack",
    "apply": "make the configuration count: mark the stores, write the plan, rebuild all images",
    "status": "show what this boot made fresh and bound, and what the next one will do",
    "diff": "show what on this root would be lost at the next boot",
    "roots": "list, compare, mount, restore from, keep and delete the old roots",
    "adopt": "copy what is on the running root into the store, and declare it",
    "next-boot": "ask the next boot, once, to keep the root, or to boot an old one",
    "base": "make, change, list and take back the base that fresh roots are copies of (btrfs)",
    "leave": "copy what persists back into the root, disarm the boot, and leave the stores as "
    "they are",
    "setup": "install the initramfs generator's module and the units (a package does this for you)",
    "home": "persist directories and files below your home, without root (bindfs and links)",
    "copyback": 'store what has changed in files with method = "copy" (called by '
    "ephemeroot-copy.service)",
    "image": "put together what the initramfs needs (called by initramfs generators)",
    "lived": "record that this boot was complete (called by ephemeroot-lived.service)",
    "schema": "print the JSON Schema of the configuration, for editors",
}
"""In the order of the help. Each is a module of this package, with ``_`` for ``-``."""

PLUMBING = ("copyback", "image", "lived", "schema")
"""Called by other programs; the help does not list them."""


def installed() -> list[str]:
    """The verbs whose modules are there: a distribution may leave some to another package."""
    names = os.listdir(os.path.dirname(__file__))  # noqa: TID251  # a path, and --help is quick
    there = {name.partition(".")[0] for name in names}
    return [name for name in VERBS if module(name) in there]


def module(verb: str) -> str:
    """The name of the *verb*'s module in this package."""
    return verb.replace("-", "_")
