"""Assembling the files of an image from the applied plan, in a folder that the generators copy."""

from __future__ import annotations

import os
import py_compile
import shlex
import shutil
from pathlib import Path

from ephemeroot.errors import EphemerootError, Misconfigured
from ephemeroot.hooks import plan as plans
from ephemeroot.hooks.guards import fsck
from ephemeroot.hooks.operations import network
from ephemeroot.hooks.operations.volumes import MountVolume
from ephemeroot.hooks.plan import Plan
from ephemeroot.hooks.wipe import is_layered
from ephemeroot.image import (
    bundle,
    data,
    elf,
    entry,
    kernel_modules,
    nics,
    tree,
    units,
    verification,
    wipers,
)
from ephemeroot.image import closure as closures
from ephemeroot.image.broken import Broken
from ephemeroot.image.bundle import Source
from ephemeroot.image.closure import Closure
from ephemeroot.image.contents import BOOT, BUNDLE, MODULES, PLAN, REASON, SETTINGS, Contents
from ephemeroot.image.generators.contract import Target
from ephemeroot.image.libraries import Libraries
from ephemeroot.image.tree import FOLDER, Tree
from ephemeroot.wipers.contract import Needs

# Loaded only to wait for a device; its library is opened at run time, which no import shows.
_WAITING = "ephemeroot.linux.udev:load"

_BARE = 2  # as in the bundle

_UDEV_RULES = {"btrfs": "/usr/lib/udev/rules.d/64-btrfs.rules"}


def put_together(top: Path, raw: bytes | None, target: Target, *, when: int = 0) -> Contents:
    """Fill the empty folder *top* with everything that the plan *raw* needs at boot in *target*.

    Without a plan the folder stays empty. After any error it has only a message for the console: an
    image with half of the files could boot without the data.
    """
    if raw is None:
        return Contents(top)
    try:
        target.require()
        contents = _armed(top, raw, target)
    except (EphemerootError, OSError, py_compile.PyCompileError) as error:
        tree.remove(top)
        contents = inert(top, _reason(error), target)
    contents.tree.settle(when)
    return contents


def inert(top: Path, reason: str, target: Target) -> Contents:
    """Fill *top* with a message for the console: nothing is wiped or persists, for *reason*."""
    contents = Contents(top)
    contents.reason = reason
    lines = (
        "THIS INITRAMFS IS INERT: nothing is wiped, and no declared path persists.",
        f"The reason: {reason}",
        "Repair it and run `ephemeroot apply`; an older image may be in the boot menu.",
    )
    contents.tree.copy(data.boot(), BOOT, why="entry")
    contents.tree.place(BOOT).chmod(0o755)
    contents.tree.write(REASON, "\n".join(lines) + "\n", why="the reason")
    units.add_inert(contents.tree)
    target.add_inert(contents)
    return contents


def _armed(top: Path, raw: bytes, target: Target) -> Contents:
    plan = plans.parse(raw, "the applied plan")
    needs = [wipers.needs(wipe) for wipe in plan.wipes()]
    reason = next((need.systemd for need in needs if need.systemd), "") or _needs_systemd(plan)
    if reason and not target.has_systemd:
        raise Broken(reason, target.systemd_advice)
    contents = Contents(top)
    volumes = plan.volumes()
    remote = [volume for volume in volumes if volume.type in network.TYPES]
    devices = units.waited_for(plan)
    calls = [call for need in needs for call in need.exercise] + nics.EXERCISE * bool(remote)
    closure = closures.trace(
        _imports(plan, needs) + nics.PYTHON * bool(remote),
        calls + [_WAITING] * (bool(devices) and not target.has_systemd),
    )
    names = _add_python(contents.tree, closure, raw)
    programs = [_program(name) for n in needs for name in n.programs]
    programs += _checkers(volumes)
    if any(volume.type == "zfs" for volume in volumes):
        programs += [_program("mount.zfs"), _program("zfs")]
    _add_programs(contents.tree, closure, programs)
    _add_entry(contents.tree, raw, names, [call for n in needs for call in n.exercise])
    root = wipers.of_root(plan)
    mounts_root = root is not None and root.MOUNTS_ROOT
    if target.has_systemd:
        units.add(contents.tree, devices, mounts_root=mounts_root, loop=target.loop)
        if remote:
            nics.add_order(contents.tree)
    contents.waits = {device.path: device.timeout for device in devices}
    target.add(contents, root)
    _add_rules(contents.tree, volumes)
    settings = _settings(plan, closure, devices, contents, target)
    contents.tree.write(SETTINGS, settings, why="entry")
    modules = kernel_modules.needed(plan, volumes, needs)
    contents.tree.write(MODULES, "".join(f"{m}\n" for m in modules), why="to verify")
    optional = kernel_modules.optional(volumes)
    contents.modules = sorted({*modules, *optional, *(nics.drivers() if remote else ())})
    command = [str(closure.program), "-I", "-S", "-B", f"{FOLDER}/boot.pyc", "verify"]
    verification.verify(contents.tree, command)
    contents.armed = True
    return contents


def _needs_systemd(plan: Plan) -> str:
    """Why a volume of *plan* needs systemd in the initramfs; empty if none does."""
    if any(volume.type == "zfs" for volume in plan.volumes()):
        # OpenZFS's hooks for other inits import the pool in the same step that mounts the root.
        return "a pool is imported only when the root is mounted, after the wipe"
    return ""


def _imports(plan: Plan, needs: list[Needs]) -> list[str]:
    modules = [wipe.attribute.partition(":")[0] for wipe in plan.wipes()]
    return sorted({*modules, *(name for need in needs for name in need.python)})


def _add_python(tree: Tree, closure: Closure, raw: bytes) -> list[str]:
    """Add the interpreter and the modules; return the names of the modules for the verification."""
    tree.copy(closure.program, why="interpreter")
    tree.place(str(closure.program)).chmod(0o755)
    usual = Path("/usr/bin/python3")
    if usual.resolve() == closure.program:
        tree.copy(usual, why="interpreter, for a rescue shell")
    bundled = []
    for module in closure.modules:
        standard = closure.is_standard(module)
        own = closures.is_own(module.name)
        if module.kind == "extension":
            why = "standard library" if standard else "Python library"
            place = (
                str(module.file)
                if standard
                else f"{FOLDER}/{_folder(module.name)}{module.file.name}"
            )
            tree.copy(module.file, place, why=why)
            continue
        below = module.name.replace(".", "/") + ("/__init__" if module.package else "")
        if module.name in closure.start:
            name = f"{closure.stdlib}/{below}.pyc"
            tree.compile(module.file, name, why="standard library", optimize=_BARE)
        elif standard or own:
            file = f"{closure.stdlib if standard else FOLDER}/{below}.py"
            bundled.append(Source(module.name, module.file, file, module.package))
        else:
            tree.compile(module.file, f"{FOLDER}/{below}.pyc", why="Python library")
    count = sum(closures.is_own(source.name) for source in bundled)
    why = f"boot code, {count} modules and {len(bundled) - count} of the standard library"
    tree.write(BUNDLE, bundle.pack(bundled, raw), why=why)
    # CPython finds its library by this file (Modules/getpath.py).
    landmark = f"{closure.stdlib}/os.pyc"
    tree.compile(closure.stdlib / "os.py", landmark, why="landmark", optimize=_BARE)
    tree.folder(f"{closure.stdlib}/lib-dynload")
    return sorted(module.name for module in closure.modules)


def _folder(module: str) -> str:
    head = module.rpartition(".")[0]
    return head.replace(".", "/") + "/" if head else ""


def _add_programs(tree: Tree, closure: Closure, programs: list[Path]) -> None:
    """Add the programs, and the libraries of all programs and modules."""
    for program in programs:
        tree.copy(program, why="program")
    extensions = [module.file for module in closure.modules if module.kind == "extension"]
    libraries = Libraries().needed_by([closure.program, *extensions, *programs])
    for library, needing in libraries.items():
        tree.copy(library, why=f"library, for {needing.name}")
    # Libraries opened with dlopen are not in an ELF header. They are added under the name that the
    # loader is asked for, not under that of the file behind a link.
    known = {path.resolve() for path in (closure.program, *extensions, *libraries)}
    for path in closure.mapped:
        if path.resolve() not in known and path.exists():
            tree.copy(path, why="library, opened at run time")
            _link_soname(tree, path)


def _link_soname(tree: Tree, library: Path) -> None:
    """Link the soname, by which a library is opened, to the mapped file."""
    facts = elf.read(library)
    if facts is not None and facts.soname not in ("", library.name):
        name = str(library.with_name(facts.soname))
        tree.link(name, library.name, why="library, opened at run time")


def _add_entry(tree: Tree, raw: bytes, names: list[str], calls: list[str]) -> None:
    tree.copy(data.boot(), BOOT, why="entry")
    tree.place(BOOT).chmod(0o755)
    own = Source("ephemeroot.image.entry", Path(entry.__file__), f"{FOLDER}/boot.py", package=False)
    tree.write(f"{FOLDER}/boot.pyc", bundle.byte_code(own), why="entry")
    tree.write(f"{FOLDER}/modules", "\n".join(names) + "\n", why="entry")
    tree.write(f"{FOLDER}/exercise", "".join(f"{call}\n" for call in calls), why="to verify")
    tree.write(PLAN, raw, why="plan")


def _add_rules(tree: Tree, volumes: list[MountVolume]) -> None:
    """Add udev's rules that report a filesystem of several devices as ready."""
    for kind in {volume.type for volume in volumes}:
        rules = Path(_UDEV_RULES.get(kind, "/nonexistent"))
        if rules.exists():
            tree.copy(rules, why=f"for {kind}")


def _settings(
    plan: Plan,
    closure: Closure,
    devices: list[units.Device],
    contents: Contents,
    target: Target,
) -> str:
    """The shell assignments that `boot` needs when the interpreter does not start, and that reading
    the image back needs (``hooks``).
    """
    checked = [device.fsck for device in devices if device.check] if target.has_systemd else []
    values = {
        "init": target.init,
        "python": str(closure.program),
        "libraries": ":".join(_unusual_folders(contents.tree)),
        "checks": " ".join(checked),
        # With systemd, units check file systems and wait for devices.
        "options": "" if target.has_systemd else "--check --wait",
        "layered": "yes" if is_layered(plan.root_wipe()) else "",
        "wipe": plan.on_failure["wipe"],
        "store": plan.on_failure["store"],
        "hooks": " ".join(script.end for script in contents.scripts),
    }
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def _unusual_folders(tree: Tree) -> list[str]:
    """Library folders that a loader without a cache does not search (ld.so(8))."""
    usual = ["/lib", "/usr/lib", "/lib64", "/usr/lib64"]
    folders = {os.path.dirname(name) for name, why in tree.why.items() if why.startswith("library")}
    loaders = {os.path.dirname(name) for name in _loaders(tree)}
    return sorted(f for f in folders if f not in usual and f not in loaders)


def _loaders(tree: Tree) -> list[str]:
    """The dynamic loaders in *tree*; a loader searches its own folder."""
    return [n for n in tree.why if os.path.basename(n).startswith(("ld-linux", "ld-musl", "ld64"))]


def _program(name: str) -> Path:
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if found is None:
        raise Broken(
            f"the program {name} is not installed", f"install the package that contains {name}"
        )
    return Path(found)


def _checkers(volumes: list[MountVolume]) -> list[Path]:
    """fsck and its helpers. A type without a helper is mounted unchecked, as by systemd."""
    checked = {v.type for v in volumes if fsck.is_checked(v.type)}
    found = [shutil.which(f"fsck.{kind}", path="/usr/sbin:/sbin") for kind in sorted(checked)]
    programs = [Path(path) for path in found if path]
    return [_program("fsck"), *programs] if programs else []


def _reason(error: Exception) -> str:
    """The error in one line."""
    if isinstance(error, Misconfigured):
        text = f"{error.message}; {error.hint}"
    elif isinstance(error, EphemerootError):
        text = f"{error.message} ({error.hint})" if error.hint else error.message
    elif isinstance(error, OSError):
        text = f"{error.strerror}: {error.filename}" if error.filename else str(error)
    else:
        text = str(error)
    return " ".join(text.split())
