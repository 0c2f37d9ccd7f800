"""The btrfs wiper: each boot gets a new subvolume under the root's name.

The previous one moves to ``old-roots`` under the time of its retirement and is pruned
by age, never below ``keep-last``. See ``rotation`` for the order of the steps.
"""

from __future__ import annotations

import errno
import os

from ephemeroot.errors import Refused
from ephemeroot.linux import devices
from ephemeroot.wipers import contract, marks, pruning, retention
from ephemeroot.wipers.btrfs import directories, history, subvolumes, toplevel
from ephemeroot.wipers.contract import Finding, Needs, Option, Wiper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ephemeroot.wipers.contract import Boot, Named, Outcome
    from ephemeroot.wipers.history import Installed


class Btrfs(Wiper):
    """Rotates a btrfs subvolume. See the contract for the methods."""

    NAME = "btrfs"
    OPTIONS = (
        Option("base", "path", None, "subvolume that fresh roots are snapshots of; none: empty"),
        Option("old-roots", "path", "old_roots", "directory for retired roots"),
        *contract.retention(),
        Option("old-bases", "path", "old_bases", "directory for replaced bases"),
        Option("keep-bases", "integer", 3, "replaced bases that are kept for 'base rollback'"),
        Option("set-default", "boolean", False, "move the default subvolume along"),
        Option("mount-options", "strings", [], "options for mounting the top level"),
    )
    BOOTS_OLD_ROOTS = True
    SUBVOLUMES_OF = "btrfs"
    INSTALLED = "ephemeroot.backends.btrfs:Btrfs"

    __slots__ = ()

    @classmethod
    def needs(cls, settings: dict[str, object]) -> Needs:
        return Needs(kernel_modules=("btrfs",), python=("btrfsutil",))

    @classmethod
    def validate(cls, settings: dict[str, object]) -> list[Finding]:
        findings = []
        for key, other in (
            ("old-roots", "base"),
            ("old-bases", "base"),
            ("old-bases", "old-roots"),
        ):
            one, two = settings.get(key), settings.get(other)
            if isinstance(one, str) and isinstance(two, str) and _overlap(one, two):
                hint = "name a separate directory, beside both"
                findings.append(Finding(key, f"overlaps {other}", hint))
        findings += [
            Finding("mount-options", f"{option!r} cannot be used", "leave it out")
            for option in _strings(settings.get("mount-options"))
            if option == "ro" or option.partition("=")[0] in ("subvol", "subvolid")
        ]
        return findings

    def describe(self, target: str, device: str | None, subvolume: str | None) -> str:
        base = self.settings.get("base")
        fresh = f"a snapshot of {base}" if base else "an empty subvolume"
        what = f"subvolume {subvolume}" if subvolume else "the subvolume of rootflags="
        where = device or "the device of root="
        return (
            f"rotate {target}: {what} on {where} becomes {fresh}, the previous one goes to "
            f"{self.settings['old-roots']} for {self.settings['keep-days']} days, the last "
            f"{self.settings['keep-last']} are kept"
        )

    def wipe(self, boot: Boot) -> Outcome:
        from ephemeroot.wipers.btrfs.rotation import SubvolumeRotation

        root = self._root(boot.subvolume)
        top = self._top(boot)
        try:
            with history.SubvolumeHistory(
                top,
                root,
                self._old_roots,
                create=not boot.dry_run,
                system=boot.system,
                **self._keeping(top),
            ) as roots:
                clock = pruning.Clock(boot.now, synchronised=boot.synchronised)
                return SubvolumeRotation(
                    boot,
                    roots,
                    pruning.by_settings(roots, clock, pinned=boot.pinned),
                    base=self._base,
                    set_default=bool(self.settings.get("set-default")),
                ).run()
        finally:
            if boot.shared is None:
                top.close()

    def _top(self, boot: Boot) -> toplevel.Toplevel:
        """The top level: one mount for all that a boot makes fresh on one filesystem."""
        if boot.shared is None:
            return toplevel.Toplevel(boot.device, self._options(boot), boot.private)
        uuid = toplevel.find(boot.device)[1]
        top = boot.shared.get(f"btrfs {uuid}")
        if not isinstance(top, toplevel.Toplevel):
            top = toplevel.Toplevel(boot.device, self._options(boot), f"{boot.private}/{uuid}")
            boot.shared[f"btrfs {uuid}"] = top
        return top

    def _options(self, boot: Boot) -> list[str]:
        """What the root's own mount needs as a whole, its top level does too."""
        wide = devices.btrfs_wide(list(boot.root_flags)) if boot.target == "/" else []
        return [*self._mount_options, *wide]

    def is_fresh(self, target: str, fresh: dict[str, str]) -> bool:
        fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if subvolumes.filesystem(fd) != fresh.get("uuid") or not subvolumes.is_subvolume(fd):
                return False
            return subvolumes.identify(fd).uuid == fresh.get("subvolume-uuid")
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP):  # no btrfs at all
                return False
            raise
        finally:
            os.close(fd)

    def identify(self, named: Named) -> dict[str, str]:
        """Without ``subvol=`` the kernel mounts the default subvolume: it is resolved."""
        found = super().identify(named)
        if "subvolume" not in found and named.device and named.private:
            options = [*self._mount_options, *devices.btrfs_wide(named.flags)]
            with toplevel.Toplevel(named.device, options, named.private, writable=False) as top:
                number = named.subvolume_id or subvolumes.default(top.fd)
                found["subvolume"] = subvolumes.path(top.fd, number)
        return found

    def unrecorded(self, named: Named, system: str) -> str:
        """A root that a wipe made has a mark with its own UUID. A copy of one has the mark of
        another; and where old roots are, no root without a mark is the installed one.
        """
        for place in (self._old_roots, self._base):
            if place is not None and _is_in(named.subvolume or "", place):
                return f"it is in {place}"
        root = self._root(named.subvolume)
        options = [*self._mount_options, *devices.btrfs_wide(named.flags)]
        with (
            toplevel.Toplevel(named.device, options, named.private, writable=False) as top,
            history.SubvolumeHistory(
                top, root, self._old_roots, create=False, system=system
            ) as roots,
        ):
            fd = directories.subvolume(roots.parent, roots.root_name)
            if fd < 0:
                return ""  # nothing is lost, or the rotation reports another file there
            try:
                if marks.state(fd, subvolumes.identify(fd).uuid) != marks.UNMARKED:
                    return ""
                if marks.is_marked(fd):
                    return "it is a copy of another root"
            finally:
                os.close(fd)
            if roots.has_first():
                return f"it was not made by ephemeroot, and {self._old_roots} has old roots"
            return ""

    def mark_boot_complete(self, root: int) -> bool:
        if not subvolumes.is_subvolume(root) or not marks.is_marked(root):
            return False
        return marks.mark_boot_complete(root, subvolumes.identify(root).uuid)

    def nested(self, root: int) -> list[str]:
        try:
            subvolumes.filesystem(root)
            if not subvolumes.is_subvolume(root):
                return []
            number = subvolumes.identify(root).id
            if number == subvolumes.TOP_LEVEL:  # refused as a root, and holds everything
                return []
            return sorted(path for path, _ in subvolumes.nested(root, number))
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL):  # no btrfs
                return []
            if error.errno == errno.EPERM:
                raise PermissionError(error.errno, error.strerror) from error
            raise

    @property
    def has_base(self) -> bool:
        return self._base is not None

    @property
    def keeps(self) -> bool:
        return True

    @property
    def marks_kept(self) -> bool:
        return True

    def history(self, installed: Installed) -> history.SubvolumeHistory:
        root = self._root(installed.subvolume)
        top = toplevel.Toplevel(
            installed.device, self._mount_options, installed.private, writable=installed.writable
        )
        try:
            return history.SubvolumeHistory(
                top, root, self._old_roots, create=False, own=True, base=self._base,
                live=installed.live, system=installed.system, **self._keeping(top),
            )  # fmt: skip
        except BaseException:
            top.close()
            raise

    def _keeping(self, top: toplevel.Toplevel) -> dict[str, Any]:
        """What the settings say of keeping old roots."""
        min_free = retention.amount(self.settings.get("min-free"), top.free()[1])
        return {"policy": retention.policy(self.settings), "min_free": min_free}

    @property
    def _mount_options(self) -> list[str]:
        return _strings(self.settings.get("mount-options"))

    @property
    def _old_roots(self) -> str:
        return str(self.settings["old-roots"]).strip("/")

    @property
    def _base(self) -> str | None:
        base = self.settings.get("base")
        return str(base).strip("/") if base else None

    def _root(self, subvolume: str | None) -> str:
        """The root's path from the top level. Raises ``Refused`` if it cannot be rotated."""
        root = (subvolume or "").strip("/")
        if not root:
            raise Refused(
                "the root is the top level of its btrfs, or no subvolume is named",
                "install the root in a subvolume and boot it with rootflags=subvol=NAME",
            )
        for name, path in (("old-roots", self._old_roots), ("the base", self._base)):
            if path is not None and _overlap(root, path):
                raise Refused(
                    f"{name}, {path!r}, and the root, {root!r}, overlap",
                    "name paths that do not contain each other",
                )
        if self._base is not None and _overlap(self._base, self._old_roots):
            raise Refused(
                f"the base, {self._base!r}, and old-roots, {self._old_roots!r}, overlap",
                "name paths that do not contain each other",
            )
        return root


def _is_in(path: str, place: str) -> bool:
    return f"{path.strip('/')}/".startswith(f"{place}/")


def _overlap(one: str, other: str) -> bool:
    one, other = one.strip("/") + "/", other.strip("/") + "/"
    return one.startswith(other) or other.startswith(one)


def _strings(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, (list, tuple)) else []
