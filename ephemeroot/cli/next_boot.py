"""``ephemeroot next-boot``: a request to the next boot only."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ephemeroot import terminal
from ephemeroot.base import bootable
from ephemeroot.cli import access, output
from ephemeroot.errors import Damaged, EphemerootError, Misconfigured, Refused
from ephemeroot.execution import DRY_RUN
from ephemeroot.hooks.records import MARKER
from ephemeroot.hooks.store import request as requests
from ephemeroot.hooks.store.request import Request
from ephemeroot.linux import documents, paths
from ephemeroot.linux.namespace import Namespace
from ephemeroot.machine.facts import read_store_id
from ephemeroot.old_roots import histories


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own arguments."""
    access.declare(parser, "the stores")
    parser.add_argument(
        "request",
        nargs="?",
        choices=(requests.KEEP, requests.WIPE, requests.ROOT),
        help="keep the root, wipe it as usual, or make it a copy of an old root; default: show the "
        "present request",
    )
    parser.add_argument("old_root", nargs="?", metavar="NAME", help="the old root to boot")
    parser.add_argument("--clear", action="store_true", help="remove the request")
    parser.add_argument("--dry-run", action="store_true", help="only print what would be done")


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0: the request is in the store and on the disk, or is shown."""
    request = _request(arguments)
    stores = _stores(arguments.root)
    if request is None and not arguments.clear:
        _show(arguments, stores)
        return 0
    if request is not None and request.root is not None:
        _require(arguments.root, request.root)
    if request is None:
        line = "remove the request for the next boot"
    else:
        line = f"request of the next boot: {request.describe()}"
    if not arguments.dry_run:
        _write(stores, request)
    if arguments.json:
        _print_json(request, done=not arguments.dry_run)
    else:
        terminal.say(f"{line}: {DRY_RUN if arguments.dry_run else 'done'}")
    return 0


def _request(arguments: argparse.Namespace) -> Request | None:
    if arguments.clear and arguments.request:
        raise Misconfigured("cannot combine --clear with a new request", "omit one of the two")
    if arguments.request == requests.ROOT and not arguments.old_root:
        raise Misconfigured(
            "the name of an old root is missing", "run 'ephemeroot roots list' to see the names"
        )
    if arguments.request != requests.ROOT and arguments.old_root:
        raise Misconfigured(
            f"'next-boot {arguments.request}' takes no name of an old root",
            f"run 'ephemeroot next-boot root {arguments.old_root}' to boot an old root",
        )
    return Request(arguments.request, arguments.old_root) if arguments.request else None


def _stores(root: str) -> list[Path]:
    """The stores of the applied plan, which the next boot reads. Raises ``Refused`` if one is
    missing.
    """
    found = []
    for declared in histories.applied_plan(root).stores():
        store = Path(root, declared.path.lstrip("/"))
        if read_store_id(str(store)) != declared.id:
            raise Refused(
                f"{store} is not the store of the applied plan: its {MARKER} is missing or has "
                "another id",
                f"run 'findmnt --target {store}' to see whether its volume is mounted",
            )
        found.append(store)
    if not found:
        raise Misconfigured(
            "cannot write the request: the applied plan has no store",
            "declare a store, and run 'ephemeroot apply'",
        )
    return found


def _require(root: str, name: str) -> None:
    """Raise ``Misconfigured`` if the root's history has no old root of that *name*, and ``Refused``
    if no kernel can boot it.
    """
    for keeper in histories.keepers(root, "/"):
        if not keeper.wiper.BOOTS_OLD_ROOTS:
            raise Misconfigured(
                f"cannot boot an old root of the wiper {keeper.wiper.NAME}",
                "run 'ephemeroot roots restore' or 'ephemeroot roots mount' to get its files",
            )
        with Namespace() as private, keeper.history(private) as history:
            history.facts(history.find(name))
            bootable.require(private, history, name, histories.applied_plan(root), root)


def _write(stores: list[Path], request: Request | None) -> None:
    """Write the request into the first store, and remove earlier ones from all stores."""
    for store in stores:
        with _opened(store) as fd:
            requests.remove(fd)
    if request is None:
        return
    folder = stores[0] / os.path.dirname(requests.RECORD)
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.lstat().st_uid != os.geteuid():
        raise EphemerootError(
            f"cannot write the request: {folder} is not a directory that root owns",
            "move it away, and run the command again",
        )
    paths.write_atomically(str(folder / requests.NAME), request.dump(), 0o600)
    paths.sync_directory(str(stores[0]))


def _show(arguments: argparse.Namespace, stores: list[Path]) -> None:
    request = None
    for store in stores:
        try:
            request = requests.parse(documents.read(f"{store}/{requests.RECORD}"))
        except FileNotFoundError:
            continue
        except Damaged as error:
            hint = "run 'ephemeroot next-boot --clear'; until then each boot keeps the root"
            raise Damaged(error.message, hint) from None
    if arguments.json:
        _print_json(request, done=True)
    elif request is None:
        terminal.say("no request: the next boot follows the plan")
    else:
        terminal.say(f"request of the next boot: {request.describe()}")


def _print_json(request: Request | None, *, done: bool) -> None:
    content = {
        "request": request.word if request else None,
        "root": request.root if request else None,
        "done": done,
    }
    output.print_json("next-boot-status", content)


@contextmanager
def _opened(store: Path) -> Iterator[int]:
    fd = os.open(store, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)
