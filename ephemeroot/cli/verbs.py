"""The names of the verbs with one line each, without an import of their modules."""

from __future__ import annotations

import os

VERBS = {
    "init": "inspect this machine and print a configuration for it, with the remaining steps",
    "check": "check the configuration, and show all errors and warnings",
    "edit": "open the configuration in an editor, and save it if it has no errors",
    "where": "show whether a path persists, why, and its content at the next boot",
    "plan": "show what a boot will do, and where each step was declared",
    "rehearse": "simulate the next boot on a throw-away root, and show missing files",
    "apply": "apply the configuration: mark the stores, write the plan, rebuild all images",
    "status": "show what this boot wiped and bound, and what the next boot will do",
    "diff": "show the files of this root that the next boot forgets",
    "roots": "list, compare, mount, restore from, keep and delete the old roots",
    "adopt": "copy a path of the running root into the store, and declare it",
    "next-boot": "request once that the next boot keeps the root, or boots an old root",
    "base": "make, change, list and roll back the base, of which new roots are copies (btrfs)",
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
    "package-change": "report changed packages that the next boot forgets (called by package "
    "managers)",
    "unsaved": "report at login and at shutdown what the next boot forgets (called by "
    "ephemeroot-unsaved.service)",
    "schema": "print the JSON Schema of the configuration, for editors",
}
"""The verbs in the order of the help. Each is a module of this package, with ``_`` for ``-``."""

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "init": (
        ("init", "show the proposal and the remaining commands"),
        ("init --root /mnt", "the same for the machine whose root is mounted at /mnt"),
    ),
    "check": (
        ("check", "check the configuration of this machine"),
        ("check --host kiosk-7", "check the same files as the host kiosk-7 reads them"),
    ),
    "edit": (
        ("edit", "edit the configuration"),
        ("edit services", "edit the drop-in services.toml, or create it"),
    ),
    "where": (("where /etc/hostname", "show whether that file persists, and why"),),
    "plan": (("plan", "show what each boot does, in order"),),
    "rehearse": (("rehearse", "simulate the next boot on throw-away copies"),),
    "apply": (
        ("apply --dry-run", "show what would change"),
        ("apply", "ask, then write the plan and rebuild the images"),
    ),
    "status": (
        ("status", "show this boot, the problems and the next boot"),
        ("status --long", "show every step of the boot as well"),
    ),
    "diff": (
        ("diff", "show the files that the next boot forgets"),
        ("diff --lines", "print the lines for the configuration that keep these files"),
        ("diff --against base --exclude '*.log'", "compare with the base, without log files"),
    ),
    "roots": (
        ("roots list", "show the old roots and their sizes"),
        ("roots diff 2026-11-25T07-30-00Z", "show the changes since that root was retired"),
        ("roots restore --from 2026-11-25T07-30-00Z /etc/fstab", "copy a file back into this root"),
        ("roots mount 2026-11-25T07-30-00Z /mnt", "mount an old root; 'umount /mnt' unmounts it"),
        ("roots prune --dry-run", "show which old roots would be deleted"),
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
        ("base diff", "show the last change of the base"),
        ("base rollback", "undo the last change of the base"),
        ("base create", "make the first base, a copy of the running root"),
        ("base list", "show the base and the bases that it replaced"),
    ),
    "upgrade": (
        ("upgrade", "upgrade the packages of the next root"),
        ("upgrade --yes --reboot=if-needed", "the same, unattended"),
    ),
    "install": (
        ("install vim", "install a package in the base: the next root has it"),
        ("install --now vim", "install it in the running root too"),
    ),
    "remove": (("remove vim", "remove a package from the base"),),
    "leave": (("leave --dry-run", "show what would be copied back into the root"),),
    "setup": (
        ("setup dracut", "install the module for dracut and the units"),
        ("setup mkinitcpio --remove", "remove the hook and the units"),
    ),
    "home": (
        ("home apply", "mount and link the paths in your home.toml"),
        ("home status", "show the state of each entry"),
        ("home enable", "apply your home.toml at every login"),
    ),
}
"""By verb: command lines without the program's name, each with an explanation."""

FIRST = (
    ("init", "propose a configuration for this machine"),
    ("status", "show what this boot did, and what the next boot will do"),
    ("diff", "show the files that the next boot forgets"),
    ("adopt --apply /etc/some-service", "keep a directory"),
)
"""The examples in the help of the program itself."""

PLUMBING = ("boot-complete", "copyback", "image", "package-change", "schema", "unsaved")
"""Verbs that other programs call; the help does not list them."""


def installed() -> list[str]:
    """The installed verbs: a distribution may have some of them in another package."""
    names = os.listdir(os.path.dirname(__file__))  # noqa: TID251  # a path, and --help is quick
    modules = {name.partition(".")[0] for name in names}
    return [name for name in VERBS if module(name) in modules]


def module(verb: str) -> str:
    """The name of the *verb*'s module in this package."""
    return verb.replace("-", "_")
