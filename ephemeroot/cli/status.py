"""``ephemeroot status``: the actions of this boot, the stores, and the actions of the next boot."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ephemeroot.base import missing_bases, package_record
from ephemeroot.cli import access, output, status_listing
from ephemeroot.config import Machine
from ephemeroot.errors import Damaged
from ephemeroot.hooks import plan as plans
from ephemeroot.hooks.cmdline import CommandLine
from ephemeroot.hooks.plan import Plan
from ephemeroot.hooks.stage import RUN
from ephemeroot.hooks.store import request as requests
from ephemeroot.image import age
from ephemeroot.init import boot_loader
from ephemeroot.linux import documents
from ephemeroot.machine.facts import read_store_id
from ephemeroot.plan import applied
from ephemeroot.status import (
    boot_report,
    declared_paths,
    full_disks,
    hidden,
    omissions,
    tasks,
    unapplied,
)
from ephemeroot.status.report import Status, StoreStatus, Unseeded

_AS_ROOT = "not known: run it as root"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own arguments."""
    access.declare(parser, access.NOTHING)
    parser.set_defaults(paged=True)
    parser.epilog = "\n\n".join(filter(None, (parser.epilog, tasks.text())))
    parser.add_argument(
        "--long", action="store_true", help="show every step of the boot, and how long it took"
    )


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0: no problems; 10: problems, which are printed."""
    status = collect(arguments.root)
    if arguments.json:
        output.print_json("status", status.to_json())
    else:
        status_listing.show(status, long=arguments.long)
    return output.PARTLY if status.complaints() else 0


def collect(root: str) -> Status:
    """Inspect the machine below *root*, with the permissions of this user."""
    folder = Path(root)
    unknown: list[str] = []
    damage: list[str] = []
    plan = None
    try:
        plan = applied.load(folder)
    except PermissionError:
        unknown.append("the applied plan")
    except Damaged as error:
        damage.append(f"{error.message} (run 'ephemeroot apply' to write it again)")
    boot = boot_report.read(folder)
    status = Status(boot, plan, _booted(folder), unknown=unknown, damage=damage)
    if plan is not None:
        status.stores = [_store(folder, store.path, store.id) for store in plan.stores()]
        status.images = age.findings(folder)
        loader = boot_loader.findings(Machine.of(root)) if plan.root_wipe() is not None else []
        status.images += [f"{one.text} ({one.hint})" for one in loader]
        status.missing_bases = missing_bases.look(root, plan)
        status.unseeded = _unseeded(folder, plan, status)
        status.full = full_disks.look(root, plan)
        try:
            status.unapplied = unapplied.look(folder, plan)
        except PermissionError:
            unknown.append("whether the configuration is applied")
    status.hidden = hidden.look(folder, boot)
    try:
        status.packages = package_record.read(folder)
    except Damaged as error:
        status.damage.append(f"{error.message} ({error.hint})")
    try:
        status.not_in_effect = declared_paths.look(folder, boot)
    except PermissionError:
        unknown.append("whether declared paths are in effect")
    status.next_boot = _next_boot(folder, status)
    return status


def _unseeded(root: Path, plan: Plan, status: Status) -> list[Unseeded]:
    try:
        found = omissions.read(root, plan, status.damage)
        return [Unseeded(one, omissions.is_missing(root, one)) for one in found]
    except PermissionError:
        status.unknown.append("paths that could not be seeded into the stores")
        return []


def _booted(root: Path) -> int | None:
    """The generation that this boot followed."""
    try:
        return plans.load(str(root / RUN.lstrip("/") / plans.FOLLOWED)).generation
    except Damaged:
        return None


def _store(root: Path, path: str, identity: str) -> StoreStatus:
    where = root / path.lstrip("/")
    try:
        found = read_store_id(str(where))
        space = os.statvfs(where)
    except (Damaged, OSError) as error:
        reason = error.message if isinstance(error, Damaged) else str(error.strerror)
        return StoreStatus(path, reason)
    size, free = space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize
    if found is None:
        return StoreStatus(path, "has no marker: check that its volume is mounted", size, free)
    if found != identity:
        return StoreStatus(path, "is not the store of the plan", size, free)
    return StoreStatus(path, "ok", size, free)


def _next_boot(root: Path, status: Status) -> list[str]:
    """The actions of the next boot. The kernel command line takes precedence over a request, and a
    request over the plan.
    """
    plan = status.plan
    if plan is None:
        if status.damage:
            return ["not known: the applied plan cannot be read; the boot follows its image"]
        return [_AS_ROOT if status.unknown else "no plan is applied: the boot changes nothing"]
    lines = []
    for name, text in Machine.of(str(root)).command_lines:
        line = CommandLine(text)
        if name == "/proc/cmdline":
            continue  # the command line of this boot, not of the next
        words = [w for w in text.split() if w.startswith("ephemeroot")]
        if words:
            lines.append(f"{name} has {' '.join(words)}")
        if line.is_off("ephemeroot") or not line.allows("ephemeroot.wipe"):
            return [*lines, "the root is kept"]
    request = _request(root, plan, status)
    if status.damage:
        return [*lines, "the root is kept, because a request cannot be read"]
    if request is not None:
        lines.append(f"requested: {request.describe()} ('ephemeroot next-boot')")
        if request.word == requests.KEEP:
            return lines
    wipes = plan.wipes()
    if not wipes:
        lines.append("nothing is wiped: no wiper is configured")
    lines += [wipe.describe() for wipe in wipes]
    if status.images:
        lines.append("but an older image does not wipe: run 'ephemeroot apply' to rebuild it")
    return lines


def _request(root: Path, plan: Plan, status: Status) -> requests.Request | None:
    for store in plan.stores():
        try:
            record = root / store.path.lstrip("/") / requests.RECORD
            return requests.parse(documents.read(str(record)))
        except PermissionError:
            status.unknown.append("a request for the next boot")
            return None
        except Damaged as error:
            status.damage.append(f"{error.message} ('ephemeroot next-boot --clear' removes it)")
            return None
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            status.damage.append(f"cannot read {error.filename}: {error.strerror}")
            return None
    return None
