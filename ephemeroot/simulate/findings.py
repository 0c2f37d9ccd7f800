"""Faults of the simulated root, found where the real system looks.

A finding names an existing file, line or unit, and the missing thing that it needs.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from ephemeroot import amounts
from ephemeroot.base import owners
from ephemeroot.base.inspection import module_names
from ephemeroot.hooks.plan import Plan
from ephemeroot.image.generators import installed
from ephemeroot.init import presets
from ephemeroot.linux import devices, mountinfo, mounts, paths, values, walk
from ephemeroot.linux.bounds import Bounds, Meter, OutOfBounds
from ephemeroot.machine import files, fstab
from ephemeroot.machine.accounts import Accounts
from ephemeroot.simulate import reach
from ephemeroot.simulate.services import Services

ERROR, WARNING, NOTE = "error", "warning", "note"

_VIRTUAL = ("proc", "sysfs", "devtmpfs", "tmpfs", "devpts", "swap", "overlay", "none", "fuse",
            "cgroup2", "debugfs", "tracefs", "efivarfs", "ramfs")  # fmt: skip
_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph", "glusterfs", "sshfs")
_MOST = 5000


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault. ``severity`` is ``ERROR`` (the boot would fail or stop, or every new root would
    have the fault), ``WARNING`` (data or a service would be missing) or ``NOTE``.
    """

    severity: str
    text: str
    hint: str = ""


class Inspection:
    """Compares the simulated root ``fresh`` with the present root ``live``.

    Both are directories where the roots are mounted, with all mounts in them. ``bootable`` are the
    releases of the kernels that the boot loader can start.
    """

    def __init__(
        self, live: Path, fresh: Path, plan: Plan, bootable: frozenset[str] = frozenset()
    ) -> None:
        self.live = live
        self.fresh = fresh
        self.plan = plan
        self.bootable = bootable
        self.root = os.open(fresh, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.accounts = Accounts.of(str(fresh))
        self.services = Services(live, fresh)

    def close(self) -> None:
        """Close the descriptor of the root."""
        os.close(self.root)

    def all(self) -> list[Finding]:
        """All findings, sorted by severity."""
        found = [
            *self.kernel_modules(),
            *self.mounts(),
            *self.key_files(),
            *self.owners(),
            *self.reach(),
            *self.units(),
            *self.states(),
        ]
        order = (ERROR, WARNING, NOTE)
        return sorted(found, key=lambda finding: order.index(finding.severity))

    # Kernels

    def kernel_modules(self) -> list[Finding]:
        """Missing modules that the boot needs, by the kernels that this machine can boot."""
        wanted = {volume.type for volume in self.plan.volumes()}
        for wipe in self.plan.wipes():
            wanted |= set(wipe.load().needs(wipe.settings).kernel_modules)
        found = []
        running = os.uname().release if self.live == Path("/") else None
        kernels = installed.releases(self.live) | ({running} if running else set())
        for kernel in sorted(kernels | self.bootable):
            known = module_names(self.root, kernel)
            if not known:
                if kernel != running or self._exists("/usr/lib/modules"):
                    found.append(Finding(
                        ERROR if kernel == running else WARNING,
                        f"the fresh root has no modules for the kernel {kernel}",
                        "install that kernel with 'ephemeroot base run', or remove its image",
                    ))  # fmt: skip
                continue
            missing = sorted(name for name in wanted if name.replace("-", "_") not in known
                             and name not in _VIRTUAL[:4])  # fmt: skip
            missing = [name for name in missing if not (kernel == running and _is_built_in(name))]
            if missing:
                found.append(Finding(
                    ERROR,
                    f"the kernel {kernel} lacks the module{'s' if len(missing) > 1 else ''} "
                    f"{amounts.listed(missing)}",
                    "install the package with 'ephemeroot base run'",
                ))  # fmt: skip
        return found

    # fstab and crypttab

    def mounts(self) -> list[Finding]:
        """Lines of the fresh root's fstab that cannot be mounted."""
        found = []
        own = {volume.mount_point for volume in self.plan.volumes()}
        for line in fstab.parse(self._text("/etc/fstab")):
            if "noauto" in line.options or line.mount_point == "/" or line.mount_point in own:
                continue
            reason = self._line(line)
            if reason:
                bad = ERROR if "nofail" not in line.options else WARNING
                then = "; the boot stops in emergency mode" if bad == ERROR else ""
                found.append(Finding(
                    bad,
                    f"/etc/fstab, line {line.number}: cannot mount {line.mount_point}: "
                    f"{reason}{then}",
                    "correct or remove the line with 'ephemeroot base run', or add nofail",
                ))  # fmt: skip
        return found + self._swap()

    def _line(self, line: fstab.FstabLine) -> str:
        if "bind" in line.options or "rbind" in line.options:
            exists = self._exists(line.device)
            return "" if exists else f"{line.device} does not exist in the fresh root"
        if line.type in _VIRTUAL or line.type in _NETWORK or line.type.startswith("fuse"):
            return ""
        try:
            path = devices.link(line.device)
        except ValueError:
            return ""  # a dataset, or another name that only the filesystem knows
        if not os.path.exists(path):
            return f"the device {line.device} is missing"
        if line.type in ("auto", "zfs") or not stat.S_ISBLK(os.stat(path).st_mode):
            return ""
        return _try_to_mount(path, line)

    def _swap(self) -> list[Finding]:
        found = []
        for number, line in enumerate(self._text("/etc/fstab").split("\n"), 1):
            fields = line.split()
            if len(fields) < 3 or fields[0].startswith("#") or fields[2] != "swap":
                continue
            if fields[0].startswith("/") and not fields[0].startswith("/dev/"):
                if not self._exists(fields[0]):
                    found.append(Finding(
                        WARNING, f"/etc/fstab, line {number}: the swap file {fields[0]} does not "
                        "exist in the fresh root", "move it to a persistent volume",
                    ))  # fmt: skip
            elif fields[0].startswith(("/dev/", "UUID=", "LABEL=", "PARTUUID=")):
                if not os.path.exists(devices.link(fields[0])):
                    found.append(Finding(
                        WARNING,
                        f"/etc/fstab, line {number}: the swap device {fields[0]} is missing; the "
                        "boot waits 90 s for it",
                        "correct or remove the line with 'ephemeroot base run', or add nofail",
                    ))  # fmt: skip
        return found

    def key_files(self) -> list[Finding]:
        """Key files in crypttab that the fresh root lacks."""
        found = []
        for number, line in enumerate(self._text("/etc/crypttab").split("\n"), 1):
            fields = line.split()
            if len(fields) < 3 or fields[0].startswith("#"):
                continue
            key = fields[2]
            if key.startswith("/") and not key.startswith(("/dev/", "/run/")):
                if not self._exists(key):
                    found.append(Finding(
                        WARNING, f"/etc/crypttab, line {number}: the key file {key} does not exist "
                        "in the fresh root", "declare the file, or its directory",
                    ))  # fmt: skip
        return found

    # Users

    def owners(self) -> list[Finding]:
        """Owners of persistent paths that do not exist in the fresh root, and users of services."""
        users = {user.uid for user in self.accounts.users.values()}
        groups = set(self.accounts.groups.values())
        found = []
        for path in self.plan.declared():
            try:
                status = os.stat(self.fresh / path.lstrip("/"), follow_symlinks=False)
            except OSError:
                continue
            for kind, number, known in (("user", status.st_uid, users),
                                        ("group", status.st_gid, groups)):  # fmt: skip
                if number not in known:
                    found.append(Finding(
                        WARNING,
                        f"{path} belongs to the {kind} {number}, which does not exist in the fresh "
                        "root",
                        "declare /etc/passwd, /etc/shadow, /etc/group and /etc/gshadow with "
                        'method = "copy", or create the user with \'ephemeroot base run\'',
                    ))  # fmt: skip
        live = os.open(self.live, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            moved = owners.look(live, self.root, self.plan.declared())
        finally:
            os.close(live)
        return [*found, *(Finding(WARNING, *one) for one in moved)]

    def reach(self) -> list[Finding]:
        """Declared paths that their users cannot reach."""
        found = reach.look(self.root, self.plan, self.accounts)
        return [Finding(WARNING, one.text, one.hint) for one in found]

    # Units

    def units(self) -> list[Finding]:
        """Services that are enabled only in the present root, and missing users of services."""
        now, then = self.services.enabled(self.live), self.services.enabled(self.fresh)
        found = [
            Finding(
                WARNING,
                f"{name} is enabled on this root but not on the fresh root",
                f"run 'ephemeroot base run -- systemctl enable {name}'",
            )
            for name in sorted(now - then)
        ]
        made = self.services.made_users()
        for name in sorted(then):
            user = self.services.user(name)
            if not user or values.number(user) is not None or "%" in user or user in made:
                continue
            if user not in self.accounts.users and not self.services.is_dynamic(name):
                found.append(Finding(
                    WARNING, f"{name} runs as {user}, which does not exist in the fresh root",
                    "install the package that creates the user with 'ephemeroot base run'",
                ))  # fmt: skip
        return found

    def states(self) -> list[Finding]:
        """State of services and well-known programs that would be lost."""
        found: dict[str, Finding] = {}
        for name in sorted(self.services.enabled(self.live)):
            for path in self.services.state_paths(name):
                if self._would_lose(path):
                    found.setdefault(path, Finding(
                        WARNING, f"{name} keeps its state in {path}, which does not persist",
                        f'declare "{path}"',
                    ))  # fmt: skip
        for preset in presets.found(str(self.live), presets.load()):
            for path in (*preset.directories, *preset.files, *preset.copies):
                if path not in found and self._would_lose(path):
                    found[path] = Finding(
                        NOTE, f"{path} does not persist ({preset.title})", f'declare "{path}"'
                    )
        return list(found.values())

    def _would_lose(self, path: str) -> bool:
        """Whether the present root has files at *path* that the fresh root lacks."""
        live, fresh = self.live / path.lstrip("/"), self.fresh / path.lstrip("/")
        if path in self.plan.declared() or self._is_mounted_later(path):
            return False
        if not os.path.lexists(live) or live.is_symlink():
            return False
        before = _listing(live)
        return bool(before) and bool(before - _listing(fresh))

    def _is_mounted_later(self, path: str) -> bool:
        """Whether *path* is on a persistent filesystem in the fresh root's fstab."""
        return fstab.keeper(fstab.parse(self._text("/etc/fstab")), path) is not None

    # Files of the fresh root, with links resolved inside that root

    def _exists(self, path: str) -> bool:
        return files.exists_in_root(self.root, path)

    def _text(self, path: str) -> str:
        try:
            fd = paths.open_in_root(self.root, path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return ""
        with open(fd, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()


def _try_to_mount(device: str, line: fstab.FstabLine) -> str:
    """The error when the line is mounted read-only, without attaching the mount; empty if there is
    none.
    """
    live = {os.path.realpath(m.source): m for m in mountinfo.mounts() if m.source[:1] == "/"}
    present = live.get(os.path.realpath(device))
    options = [o for o in line.options if o not in ("rw", "ro") and not o.startswith("pri=")]
    if present is None:
        options.append("ro")
    elif present.fstype != line.type:
        return f"{line.device} is {present.fstype}, not {line.type}"
    elif line.type != "btrfs":
        return ""  # already mounted with that type
    try:
        os.close(mounts.create(line.type, device, options))
    except OSError as error:
        return str(error.strerror)
    return ""


def _is_built_in(name: str) -> bool:
    """Whether the running kernel supports the filesystem, built in or by a loaded module."""
    try:
        known = Path("/proc/filesystems").read_text().split()
    except OSError:
        return False
    return name in known


def _listing(path: Path) -> set[tuple[str, int, int]]:
    """The first ``_MOST`` files under *path* with size and time; for a file, the file itself."""
    found: set[tuple[str, int, int]] = set()
    try:
        if not path.is_dir():
            status = path.lstat()
            return {("", status.st_size, status.st_mtime_ns)}
    except OSError:
        return found
    try:
        top = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return found
    try:
        for name, status in walk.below(top, ".", Meter(Bounds(entries=_MOST))):
            if not stat.S_ISDIR(status.st_mode):
                found.add((name, status.st_size, status.st_mtime_ns))
    except (OSError, OutOfBounds):
        pass
    finally:
        os.close(top)
    return found
