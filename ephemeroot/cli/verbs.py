"""The verbs: names and one line each, known without importing what they do."""

from __future__ import annotations

import os

VERBS = {
    "init": "inspect this machine and print a configuration for it, with the remaining steps",
    "check": "check the configuration and show all mistakes",
    "edit": "open the configuration in an editor, and save it if it has no mistakes",
    "where": "show whether a path persists, why, and its content at the next boot",
    "plan": "show what a boot will do, and where each step was declared",
    "rehearse": "simulate the next boot on a throw-away root, and show missing files",
    "apply": "apply the configuration: mark the stores, write the plan, rebuild all images",
    "status": "show what this boot made fresh and bound, and what the next boot will do",
    "diff": "show the files of this root that the next boot forgets",
    "roots": "list, compare, mount, restore from, keep and delete the old roots",
    "adopt": "copy a path of the running root into the store, and declare it",
    "next-boot": "request once that the next boot keeps the root, or boots an old root",
    "base": "make, change, list and roll back the base that fresh roots are copies of (btrfs)",
    "upgrade": "upgrade all packages, in the base",
    "install": "install packages in the base, and with --now in the running root too",
    "remove": "remove packages from the base, and with --now from the running root too",
    "leave": "copy persistent paths back into the root and disarm the boot; the stores are kept",
    "setup": "install the initramfs generator's module and the units (packages do this)",
    "home": "persist directories and files below your home, without root (bindfs and links)",
    "copyback": 'store changed files with method = "copy" (called by ephemeroot-copy.service)',
    "image": "collect the files for the initramfs (called by initramfs generators)",
    "boot-complete": "record that this boot was complete (called by "
    "ephemeroot-boot-complete.service)",
    "package-change": "tell what a package manager's change of the running root means (called by "
    "package managers)",
    "unsaved": "report at login and at shutdown what the next boot forgets (called by "
    "ephemeroot-unsaved.service)",
    "schema": "print the JSON Schema of the configuration, for editors",
}
"""In the order of the help. Each is a module of this package, with ``_`` for ``-``."""

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "init": (
        ("init", "show the proposal and the remaining commands"),
        ("init --root /mnt", "the same for the machine whose root is mounted at /mnt"),
    ),
    "check": (
        ("check", "check the configuration of this machine"),
        ("check --host kiosk-7", "show what the host kiosk-7 would get from the same files"),
    ),
    "edit": (
        ("edit", "edit the configuration"),
        ("edit services", "edit the drop-in services.toml, or create it"),
    ),
    "where": (("where /etc/hostname", "show whether that file persists, and why"),),
    "plan": (("plan", "show what each boot does, in order"),),
    "rehearse": (("rehearse", "simulate the next boot on copies that are thrown away"),),
    "apply": (
        ("apply --dry-run", "show what would change"),
        ("apply", "ask, then write the plan and rebuild the images"),
    ),
    "status": (
        ("status", "show this boot, the problems and the next boot"),
        ("status --long", "show every step of the boot as well"),
    ),
    "diff": (
        ("diff", "show what the next boot forgets"),
        ("diff --lines", "print the lines that keep it, for the configuration"),
        ("diff --against base --exclude '*.log'", "compare with the base, without log files"),
    ),
    "roots": (
        ("roots list", "show the old roots and their sizes"),
        ("roots diff 2026-11-25T07-30-00Z", "show the changes since that root was retired"),
        ("roots restore --from 2026-11-25T07-30-00Z /etc/fstab", "copy a file back into this root"),
        ("roots mount 2026-11-25T07-30-00Z /mnt", "mount an old root; 'umount /mnt' unmounts it"),
        ("roots prune --dry-run", "show which old roots are due"),
        ("roots keep 2026-11-25T07-30-00Z", "never delete that old root"),
    ),
    "adopt": (
        ("adopt --apply /etc/some-service", "keep a directory, now and after each boot"),
        ("adopt --dry-run /var/lib/libvirt/images", "show what would be copied"),
    ),
    "next-boot": (
        ("next-boot keep", "do not wipe at the next boot"),
        ("next-boot root 2026-11-25T07-30-00Z", "make the next root a copy of that old root"),
        ("next-boot --clear", "remove the request"),
    ),
    "base": (
        ("base run", "change the base in a shell"),
        ("base run -- passwd root", "run a command in the base"),
        ("base commit /etc/issue", "copy a change of the running root into the base"),
        ("base diff", "show what the last change of the base changed"),
        ("base rollback", "undo the last change of the base"),
        ("base create", "make the first base, a copy of the running root"),
        ("base list", "show the base and the bases that it replaced"),
    ),
    "upgrade": (
        ("upgrade", "upgrade the packages of the next root"),
        ("upgrade --yes --reboot=if-needed", "the same, unattended"),
    ),
    "install": (
        ("install vim", "install it in the base: the next root has it"),
        ("install --now vim", "install it in the running root too"),
    ),
    "remove": (("remove vim", "remove it from the base"),),
    "leave": (("leave --dry-run", "show what would be copied back into the root"),),
    "setup": (
        ("setup dracut", "install the module for dracut and the units"),
        ("setup mkinitcpio --remove", "remove the hook and the units"),
    ),
    "home": (
        ("home apply", "mount and link what your home.toml declares"),
        ("home status", "show each entry"),
        ("home enable", "do it at every login"),
    ),
}
"""By verb: command lines without the program's name, each with what it does."""

FIRST = (
    ("init", "propose a configuration for this machine"),
    ("status", "show what this boot did, and what the next boot will do"),
    ("diff", "show what the next boot forgets"),
    ("adopt --apply /etc/some-service", "keep something"),
)
"""The examples in the help of the program itself."""

PLUMBING = ("boot-complete", "copyback", "image", "package-change", "schema", "unsaved")
"""Called by other programs; the help does not list them."""


def installed() -> list[str]:
    """The verbs whose modules are there: a distribution may leave some to another package."""
    names = os.listdir(os.path.dirname(__file__))  # noqa: TID251  # a path, and --help is quick
    there = {name.partition(".")[0] for name in names}
    return [name for name in VERBS if module(name) in there]


def module(verb: str) -> str:
    """The name of the *verb*'s module in this package."""
    return verb.replace("-", "_")
