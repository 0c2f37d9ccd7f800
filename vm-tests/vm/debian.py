"""Debian trees in folders, by mmdebstrap, from the mirror that this host uses."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vm.command import CommandFailed, Unavailable, run

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_LEFT_OUT = ("man", "doc", "locale", "info", "i18n", "bash-completion", "zsh", "bug", "lintian")

# mmdebstrap's options for every tree
RECIPE = (
    "--mode=root",
    "--variant=minbase",
    '--aptopt=APT::Install-Recommends "false"',
    *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _LEFT_OUT),
)


@dataclass(frozen=True)
class Selection:
    """The suite and packages of a Debian tree.

    `stale` is for suites that change daily, of which a mirror may have an index of last month: its
    signature is accepted anyway.
    """

    packages: tuple[str, ...]
    suite: str = "trixie"
    components: tuple[str, ...] = ("main",)
    stale: bool = field(default=False, repr=False)


def mirror() -> str:
    """The site to bootstrap from.

    `$EPHEMEROOT_DEBIAN_MIRROR`, else where this host's apt gets Debian main.

    Raises Unavailable if neither says.
    """
    named = os.environ.get("EPHEMEROOT_DEBIAN_MIRROR")
    if named:
        return named
    hint = "set EPHEMEROOT_DEBIAN_MIRROR to a Debian mirror"
    try:
        rows = run(
            [
                "apt-get",
                "indextargets",
                "--format",
                "$(SITE)|$(ORIGIN)|$(LABEL)|$(COMPONENT)",
                "Identifier: Packages",
            ]
        )
    except (CommandFailed, Unavailable) as error:
        raise Unavailable(f"this host's apt names no Debian mirror: {hint}") from error
    fields = [row.split("|") for row in rows.splitlines()]
    known = [
        site
        for site, origin, label, component in fields
        if (origin, label, component) == ("Debian", "Debian", "main")
    ]
    # Without downloaded lists apt knows no origin yet; only the archive's usual path is known then.
    guessed = [
        site
        for site, _, _, component in fields
        if component == "main" and site.rstrip("/").endswith("/debian")
    ]
    for site in [*known, *guessed]:
        return site
    raise Unavailable(f"this host's apt names no Debian mirror: {hint}")


def bootstrap(tree: Path, selection: Selection, hooks: Sequence[str] = ()) -> None:
    """Make `tree` a Debian with those packages and nothing recommended.

    `hooks` are mmdebstrap's options for hooks (`--customize-hook=…`).

    Raises Unavailable without root, mmdebstrap or the archive's keys.
    """
    if os.geteuid() != 0:
        raise Unavailable("bootstrapping Debian needs root: run as root")
    if shutil.which("mmdebstrap") is None:
        raise Unavailable("no mmdebstrap on this host: apt-get install mmdebstrap")
    if not _KEYRING.exists():
        raise Unavailable(
            "the Debian archive's keys are not on this host: apt-get install debian-archive-keyring"
        )
    site = mirror()
    stale = ['--aptopt=Acquire::Check-Valid-Until "false"'] if selection.stale else []
    run(
        [
            *("mmdebstrap", *RECIPE, *_proxies(), *stale, *hooks),
            f"--keyring={_KEYRING}",
            f"--components={','.join(selection.components)}",
            f"--include={','.join(selection.packages)}",
            *(selection.suite, str(tree), site),
        ],
        # The kernel's hook would run dracut; images are made later, and each their own.
        env={"INITRD": "No"},
    )


def _proxies() -> list[str]:
    # mmdebstrap's apt reads the new tree's configuration, not the host's.
    options = []
    for scheme in ("http", "https"):
        name = f"Acquire::{scheme}::Proxy"
        value = run(["apt-config", "dump", "--format", "%v", name]).strip()
        if value:
            options.append(f'--aptopt={name} "{value}"')
    return options
