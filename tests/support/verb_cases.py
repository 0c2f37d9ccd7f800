"""How each verb is called on the machine of `verb_machine`, and what it may change there.

The verbs are those of the parser: `test_verb_cases` fails for a verb without a case. Tests that
must hold for every verb use this table.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import btrfsutil

import package_repository
from ephemeroot import cli
from ephemeroot.cli import arguments
from ephemeroot.wipers import marks
from package_repository import Repository
from verb_machine import HOME, NEWEST, OLD_BASE, OLDEST, RECIPE, USER, VerbMachine


@dataclass(frozen=True)
class Case:
    """``verb`` (all its words, ``roots list``), called with ``words`` after it.

    ``changes`` are patterns (fnmatch, ``*`` matches ``/`` too) of the names in `VerbMachine.state`
    that it may change: none for a verb that only reads. ``mounts`` are the mount points that it
    adds or removes. ``prepare`` changes the machine once, ``start`` changes every copy of it, for
    states that end with the copy. ``code`` is the exit code, ``again`` that of a second run, which
    has nothing left to do. ``user`` is the user who runs it, ``daemons`` are programs that continue
    to run, by their names in /proc. Not ``booted``: it runs in a boot without binds. Not ``armed``:
    the next boot does not wipe. Names that match ``varies`` contain a time or random values;
    ``may_stay`` are empty directories that are removed after the record of the run that made them.
    ``own``: only the program's own calls are interrupted, because it starts another program that
    handles signals in its own way.
    """

    verb: str
    words: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    prepare: Callable[[VerbMachine], None] | None = None
    code: int = 0
    again: int = 0
    user: int = 0
    daemons: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    booted: bool = True
    armed: bool = True
    start: Callable[[VerbMachine], None] | None = None
    varies: tuple[str, ...] = ()
    may_stay: tuple[str, ...] = ()
    own: bool = False
    name: str = ""

    @property
    def id(self) -> str:
        """The name of the case: the verb, and its variant."""
        return f"{self.verb} {self.name}".strip().replace(" ", "-")

    @property
    def argv(self) -> tuple[str, ...]:
        """The arguments after the name of the program."""
        return (*self.verb.split(), *self.words)


def _declare_more(machine: VerbMachine) -> None:
    """A change of the configuration that is not applied yet."""
    path = machine.inside("/etc/ephemeroot/ephemeroot.toml")
    path.write_text(path.read_text().replace('"/srv/data",', '"/srv/data", "/srv/app",'))


def _change_copy(machine: VerbMachine) -> None:
    """A file with ``method = "copy"`` that differs from the store's."""
    machine.inside("/etc/adjtime").write_text("1.0 0 0.0\n")


def _ask(machine: VerbMachine) -> None:
    machine.must("next-boot", "keep")


def _no_base(machine: VerbMachine) -> None:
    btrfsutil.delete_subvolume(str(machine.top / "root-base"))
    btrfsutil.sync(str(machine.top))


def _packages(machine: VerbMachine) -> None:
    """A system with packages: ``tool`` is installed and has a newer version, ``other`` is not
    installed.
    """
    base = machine.top / "root-base"
    for root in (base, machine.inside("/")):
        package_repository.configure(root, "/opt/packages")
    with tempfile.TemporaryDirectory() as folder:
        repository = Repository(base / "opt/packages", Path(folder))
        repository.publish("tool", "1", {"opt/tool": "one\n"})
        btrfsutil.sync(str(machine.top))
        machine.must("install", "--yes", "tool")  # later files are in the new base
        repository.publish("tool", "2", {"opt/tool": "two\n"})
        repository.publish("other", "1", {"opt/other": "one\n"})
    for old in os.listdir(machine.top / "old_bases"):  # a folder of the test
        if old != OLD_BASE:
            btrfsutil.delete_subvolume(str(machine.top / "old_bases" / old))
    btrfsutil.sync(str(machine.top))


def _keep(machine: VerbMachine) -> None:
    machine.must("roots", "keep", OLDEST)


def _anothers(machine: VerbMachine) -> None:
    """The old roots belong to a system that was installed here before."""
    fd = os.open(machine.top / "old_roots", os.O_RDONLY)
    try:
        marks.set_system(fd, "f" * 32)
    finally:
        os.close(fd)
    btrfsutil.sync(str(machine.top))


def _change_after_leaving(machine: VerbMachine) -> None:
    """`leave` has run, and the root was changed before the reboot."""
    machine.must("leave", "--yes", "--no-images")
    store = machine.inside("/persistent")
    (store / "srv/data/last-minute").write_text("important\n")
    (store / "var/log/syslog").write_text("first line\nlast line\n")
    shutil.rmtree(machine.inside("/run/ephemeroot"))


def _never_applied(machine: VerbMachine) -> None:
    for name in ("root", "persistent"):
        machine.top.joinpath(name, "etc/ephemeroot/plan.json").unlink(missing_ok=True)


def _unfinished(machine: VerbMachine) -> None:
    """The boot is not complete yet: its root is marked as new."""
    root, name = machine.top / "root", "trusted.ephemeroot.state"
    word, _, identity = os.getxattr(root, name).partition(b" ")
    assert word == b"boot-complete"
    os.setxattr(root, name, b"new " + identity)


def _install_dracut(machine: VerbMachine) -> None:
    machine.must("setup", "dracut")
    _never_applied(machine)


def _home_applied(machine: VerbMachine) -> None:
    """Applied in an earlier boot: the links exist, but nothing is mounted."""
    machine.must("home", "apply", user=USER, daemons=("bindfs",))


def _home_enabled(machine: VerbMachine) -> None:
    machine.must("home", "enable", "--program", "/usr/bin/ephemeroot", user=USER)


ROOT, STORE, OLD = "disk/root", "disk/persistent", "disk/old_roots"
BASE = ("disk/root-base*", "disk/old_bases*", "boot/*")
"""The names that a change of the base may change."""
PACKAGE_LOGS = (
    f"{STORE}/var/log/apt*",
    f"{STORE}/var/log/dpkg.log",
    f"{STORE}/var/log/alternatives.log",
)
"""They persist, and a package manager in the base writes there, too."""
_CHANGED = (*BASE, *PACKAGE_LOGS)
_HOME = (f"{ROOT}{HOME}/*", f"{STORE}/home/talyz/*")
_HOME_RECORD = f"{ROOT}{HOME}/.local/state/ephemeroot/home.json"
_ABOVE_RECORD = tuple(
    f"{ROOT}{HOME}/{name}" for name in (".local", ".local/state", ".local/state/ephemeroot")
)

CASES = (
    Case("init"),
    Case("check"),
    Case("plan"),
    Case(
        "edit",
        ("--editor", "sed -i s,/var/log,/srv/app,"),
        changes=(f"{STORE}/etc/ephemeroot*",),
    ),
    Case("where", ("/srv/data/thesis",)),
    Case("where", ("/etc/note",), code=10, again=10, name="forgotten"),
    Case("rehearse"),
    Case(
        "apply",
        ("--yes", "--no-images"),
        changes=(f"{STORE}/etc/ephemeroot*", f"{STORE}/.ephemeroot*"),
        prepare=_declare_more,
    ),
    Case("status"),
    Case("diff"),
    Case("diff", ("--against", NEWEST), name="against"),
    Case("roots list"),
    Case("roots show", (OLDEST,)),
    Case("roots diff", (OLDEST, NEWEST)),
    Case("roots mount", (NEWEST, "/mnt"), mounts=("/mnt",), again=2),
    Case(
        "roots restore",
        ("--from", NEWEST, "/srv/forgotten", "/etc/note", "--overwrite"),
        changes=(f"{ROOT}/srv/forgotten*", f"{ROOT}/etc/note"),
    ),
    Case(
        "roots prune",
        ("--recipe-names", "--yes"),
        changes=(f"{OLD}/{RECIPE}*",),
    ),
    Case("roots delete", (NEWEST, "--yes"), changes=(f"{OLD}/{NEWEST}*",), again=2),
    Case("roots keep", (OLDEST,), changes=(f"{OLD}/{OLDEST}*",)),
    Case("roots unkeep", (f"{OLDEST}.keep",), changes=(f"{OLD}/{OLDEST}*",), prepare=_keep),
    Case("roots claim", ("--yes",), changes=(OLD,), prepare=_anothers),
    Case(
        "adopt",
        ("/srv/app", "--yes"),
        changes=(f"{STORE}/srv/app*", f"{STORE}/etc/ephemeroot/*", f"{STORE}/.ephemeroot*"),
        mounts=("/srv/app",),
    ),
    Case("next-boot"),
    Case("next-boot", ("keep",), changes=(f"{STORE}/.ephemeroot/*",), name="keep"),
    Case("next-boot", ("root", NEWEST), changes=(f"{STORE}/.ephemeroot/*",), name="root"),
    Case(
        "next-boot",
        ("--clear",),
        changes=(f"{STORE}/.ephemeroot/*",),
        prepare=_ask,
        name="clear",
    ),
    Case("base create", changes=("disk/root-base*", "disk/old_bases*"), prepare=_no_base, again=2),
    Case(
        "base run",
        ("--", "sh", "-c", "echo two > /etc/version"),
        changes=BASE,
    ),
    Case("base list"),
    Case("base diff"),
    Case("base commit", ("/etc/note", "--yes"), changes=BASE),
    Case(
        "base rollback",
        (OLD_BASE, "--yes"),
        changes=("disk/root-base*", "disk/old_bases*"),
    ),
    Case("upgrade", ("--yes",), changes=_CHANGED, varies=PACKAGE_LOGS, prepare=_packages, own=True),
    Case(
        "install",
        ("--yes", "other"),
        changes=_CHANGED,
        varies=PACKAGE_LOGS,
        prepare=_packages,
        own=True,
    ),
    Case(
        "remove",
        ("--yes", "tool"),
        changes=_CHANGED,
        varies=PACKAGE_LOGS,
        prepare=_packages,
        own=True,
    ),
    Case(
        "leave",
        ("--yes", "--no-images"),
        armed=False,
        varies=(f"{ROOT}/.ephemeroot/leaving.json",),
        changes=(f"{ROOT}/*", f"{STORE}/etc/ephemeroot/*", f"{STORE}/.ephemeroot/*"),
    ),
    Case(
        "leave",
        ("--finish",),
        changes=(f"{ROOT}/*", "run*"),
        prepare=_change_after_leaving,
        booted=False,
        armed=False,
        name="finish",
    ),
    Case("setup", ("dracut",), changes=("usr/lib*",), name="dracut"),
    Case("setup", ("mkinitcpio",), changes=("usr/lib*",), name="mkinitcpio"),
    Case(
        "setup",
        ("dracut", "--remove"),
        changes=("usr/lib*",),
        prepare=_install_dracut,
        name="remove",
    ),
    Case(
        "home apply",
        changes=_HOME,
        varies=(_HOME_RECORD,),
        user=USER,
        daemons=("bindfs",),
        mounts=(f"{HOME}/Music",),
    ),
    Case(
        "home stop",
        ("--all",),
        changes=_HOME,
        varies=(_HOME_RECORD,),
        may_stay=_ABOVE_RECORD,
        prepare=_home_applied,
        user=USER,
    ),
    Case(
        "home stop",
        changes=_HOME,
        varies=(_HOME_RECORD,),
        user=USER,
        daemons=("bindfs",),
        start=_home_applied,
        mounts=(f"{HOME}/Music",),
        name="mounted",
    ),
    Case("home status", code=10, again=10, user=USER),
    Case("home check", user=USER),
    Case(
        "home enable",
        ("--program", "/usr/bin/ephemeroot"),
        changes=_HOME,
        varies=(_HOME_RECORD,),
        user=USER,
    ),
    Case("home disable", changes=_HOME, varies=(_HOME_RECORD,), prepare=_home_enabled, user=USER),
    Case(
        "copyback",
        changes=(
            f"{STORE}/etc/adjtime",
            f"{STORE}/.ephemeroot/copies",
            f"{ROOT}/.ephemeroot/copied",
            "run/copy.lock",
        ),
        prepare=_change_copy,
        varies=(f"{ROOT}/.ephemeroot/copied",),
    ),
    Case("image", ("--into", "/run/image")),
    Case("boot-complete", changes=(ROOT,), prepare=_unfinished),
    Case("package-change", ("after",)),
    Case("unsaved"),
    Case("schema"),
)


def verbs() -> list[str]:
    """Every verb of the parser with its actions, as ``roots list``."""
    parser: argparse.ArgumentParser = arguments.parser(cli.VERBS)
    return sorted(_leaves(parser, ()))


def _leaves(parser: argparse.ArgumentParser, words: tuple[str, ...]) -> list[str]:
    found = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                found += _leaves(below, (*words, name))
    return found or [" ".join(words)]
