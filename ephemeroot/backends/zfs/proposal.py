"""What ``init`` proposes for a root on ZFS."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from ephemeroot.backends import commands
from ephemeroot.backends.commands import STORE
from ephemeroot.backends.contract import Layout, Step
from ephemeroot.backends.survey import Survey
from ephemeroot.config.syntax.toml_text import quote
from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.linux import programs, shell
from ephemeroot.machine.facts import command_line
from ephemeroot.machine.fstab import INITRD, FstabLine

_NONE = "-"


@dataclass(frozen=True, slots=True)
class _Keys:
    """The encryption roots of the root and of the dataset above it, ``-`` for none. ``known``:
    zfs(8) has told them, and the commands need not ask.
    """

    root: str
    parent: str
    known: bool


def of(survey: Survey, line: FstabLine | None) -> Layout | None:
    """See ``Backend.proposal``."""
    if survey.type != "zfs":
        return None
    root = survey.inner
    parent = root.rpartition("/")[0]
    if not parent:
        raise Refused(
            f"the root is {root}, the pool itself: it can neither be rotated nor given a base",
            f"install the root in a dataset of its own, such as {root}/ROOT/NAME",
        )
    keys = _keys(root, parent)
    _require_shared_key(root, parent, keys)
    base, old_roots = f"{parent}/base", f"{parent}/old-roots"
    steps = (_by_name(survey), _boot(survey), _store(root, keys, line))
    return Layout(
        wiper="zfs",
        root=f"the zfs on {survey.device}",
        store=STORE,
        explanation=(
            f"At every boot the dataset {root} will be a new clone of {base}@blank, and the "
            f"previous one moves to {old_roots}. The paths declared below come from {STORE}."
        ),
        tables=(
            '[root]\nwiper = "zfs"\n\n[root.zfs]\nmode = "rotate"\n'
            f"dataset = {quote(root)}\n"
            f"base = {quote(base)}\n"
            f"old-roots = {quote(old_roots)}\n"
            "keep-days = 30                       # old roots are deleted after that,\n"
            "keep-last = 3                        # but never the last three\n"
            f"{commands.MIN_FREE}"
        ),
        prepare=tuple(step for step in steps if step is not None),
        finish=(_base(root, parent, base, keys),),
    )


def _keys(root: str, parent: str) -> _Keys:
    words = ("-Hpo", "name,value", "encryptionroot", root, parent)
    try:
        # In an order of its own.
        found = dict(line.split("\t") for line in programs.run("zfs", "get", *words).splitlines())
        return _Keys(found[root], found[parent], known=True)
    except (EphemerootError, ValueError, KeyError):
        return _Keys(_NONE, _NONE, known=False)  # another machine's root, whose pool is elsewhere


def _require_shared_key(root: str, parent: str, keys: _Keys) -> None:
    """Raise ``Refused`` unless datasets beside the root have its key, or none if it has none: a
    copy of an encrypted root would be written in plain text, and a clone has its origin's key.
    """
    if keys.root == keys.parent:
        return
    if keys.root == root:
        raise Refused(
            f"the root {root} is its own encryption root: its base and its old roots, beside it in "
            f"{parent}, would not have its key",
            "move the root into an encrypted dataset, and let it inherit the key: see docs/zfs.md, "
            "'An encrypted root'",
        )
    raise Refused(
        f"the root {root} has {_words(keys.root)}, the dataset {parent} above it has "
        f"{_words(keys.parent)}: the base and the old roots must have the root's key",
        f"'zfs rename {shell.quoted(root)} NAME' moves the root, under a parent that has "
        f"{_words(keys.root)}",
    )


def _words(encryption_root: str) -> str:
    return "no encryption" if encryption_root == _NONE else f"the key of {encryption_root}"


def _by_name(survey: Survey) -> Step | None:
    """A root that is rotated must be booted by its name."""
    name = survey.inner.replace(" ", "+")  # as OpenZFS's dracut module reads it
    wanted = f"zfs:{name}"
    lines = [command_line(text).get("root") for _, text in survey.machine.command_lines]
    if lines and all(line in (wanted, f"ZFS={name}") for line in lines):
        return None
    return Step(
        "The root by its name, because the pool's bootfs is an object number and follows the old "
        "root:",
        (*commands.on_command_line(survey, f"root={wanted}"), "reboot"),
    )


def _boot(survey: Survey) -> Step | None:
    lost = commands.lost_boot_file(survey)
    if not lost:
        return None
    return Step(
        f"Move kernels and boot loader off the root ({lost} is on it):",
        ("# a partition or a dataset of a boot pool at /boot, with its line in /etc/fstab",),
    )


def _store(root: str, keys: _Keys, line: FstabLine | None) -> Step | None:
    """Below the root's encryption root: its key is loaded before the store is mounted, and nothing
    that was encrypted in the root becomes plain text.
    """
    if line is not None:
        return commands.needed(line)
    above = root.partition("/")[0] if keys.root == _NONE else keys.root
    dataset = f"{above}/persistent"
    field = dataset.replace(" ", "\\040")
    return Step(
        "A dataset for persistent paths, which the initramfs mounts:",
        (
            f"zfs create -o mountpoint=legacy {shlex.quote(dataset)}",
            f"mkdir -p {shlex.quote(STORE)}",
            commands.append(f"{field} {STORE} zfs defaults,{INITRD} 0 0"),
            f"mount {shlex.quote(STORE)}",
        ),
    )


def _base(root: str, parent: str, base: str, keys: _Keys) -> Step:
    """Sent, not cloned: a clone would keep the present root from ever being deleted. So would the
    snapshot on it; the base's is held, for without it no boot can make a new root.
    """
    blank, copy = shlex.quote(f"{root}@blank"), shlex.quote(base)
    send = f"zfs send {blank} | zfs receive -u -o canmount=noauto -o mountpoint=none {copy}"
    if not keys.known:
        asked = [f'"$(zfs get -Ho value encryptionroot {shlex.quote(n)})"' for n in (root, parent)]
        send = f"test {' = '.join(asked)} && {send}"
    return Step(
        "The base, a copy of the root as it is now; each fresh root is a clone of its snapshot:",
        (
            f"zfs snapshot {blank}",
            send,
            f"zfs destroy {blank}",
            f"zfs hold ephemeroot {shlex.quote(f'{base}@blank')}",
            f"zfs set canmount=noauto {shlex.quote(root)}",
        ),
    )
