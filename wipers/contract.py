"""What a wiper is: the contract between the boot code, the installed side and a backend.

A wiper is a class, found through the entry-point group ``ephemeroot.wipers`` when the
image is built and named in the plan as ``module:attribute``. Its module is imported in
the initramfs, so it must keep to the import budget: ``os sys json errno ctypes time``,
and its own library only inside the methods that need it. Describing a wiper, checking
its settings and building its image never need its library.

The names of ``__all__`` are part of it. ``boot`` is loaded when one of its names is asked for: only
a wipe needs it.

A path that a method gets is one of these: a directory that the stage or a verb has made for this
run, below ``/run/ephemeroot`` or in a mount namespace of its own (``private``), or a mount below
it; the new root's or a volume's mount point while no user can run anything (``Boot.mount_point``,
the *target* of ``is_fresh``); or the mount point of the fresh root or volume on the running system
(``Installed.live``), which the wiper proves to be made by a wipe. No path leads into
a root: files inside are opened from the root's descriptor, without following links
(``linux.paths.open_beneath``).
"""

from __future__ import annotations

import os

from ephemeroot.linux import devices, mountinfo
from ephemeroot.linux.values import Finding, Option
from ephemeroot.wipers.retention import retention

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ephemeroot.wipers.boot import Boot, Outcome
    from ephemeroot.wipers.history import History, Installed

__all__ = ("API", "Boot", "Finding", "Named", "Needs", "Option", "Outcome", "Wiper", "retention")

API = 1
"""The version of this contract. A wiper with another ``api`` is refused at ``check``."""


class Needs:
    """What a wiper's image needs beyond the boot code itself.

    ``kernel_modules`` and ``filesystems`` are kernel module names, ``programs`` are
    looked up in PATH, ``python`` are modules to import for real while the closure is
    traced, ``exercise`` (``module:function``, no arguments) is called while it is
    traced, for what a library loads only at its first call, and again in the packed
    image: it must work on a machine that has none of what the library is for. ``systemd`` says
    why the initramfs must have systemd as its init; empty if any does.
    """

    __slots__ = ("exercise", "kernel_modules", "programs", "python", "systemd")

    def __init__(
        self,
        *,
        kernel_modules: tuple[str, ...] = (),
        programs: tuple[str, ...] = (),
        python: tuple[str, ...] = (),
        exercise: tuple[str, ...] = (),
        systemd: str = "",
    ) -> None:
        self.kernel_modules = kernel_modules
        self.programs = programs
        self.python = python
        self.exercise = exercise
        self.systemd = systemd


class Named:
    """The root that a boot, or ``apply``, names: ``device`` is its path, empty while no device may
    be looked at; ``root`` the value of ``root=``; ``subvolume`` and ``subvolume_id`` what
    ``rootflags=`` says, ``flags`` all of its options. ``reads`` says whether devices and pools may
    be read, and ``private`` is an empty directory to mount below (and unmount again), empty where
    nothing may be mounted.
    """

    __slots__ = ("device", "flags", "private", "reads", "root", "subvolume", "subvolume_id")

    def __init__(
        self,
        *,
        device: str = "",
        root: str | None = None,
        subvolume: str | None = None,
        subvolume_id: int | None = None,
        reads: bool = False,
        private: str = "",
        flags: Iterable[str] = (),
    ) -> None:
        self.device = device
        self.flags = list(flags)
        self.reads = reads
        self.root = root
        self.subvolume = subvolume
        self.subvolume_id = subvolume_id
        self.private = private


class Wiper:
    """The base of every wiper.

    ``settings`` has every key of ``OPTIONS``, validated, with the default of each that was
    left out or did not exist when the plan was made. Class attributes:
    ``NAME`` as written in the configuration, ``OPTIONS`` its table, ``NEEDS`` its
    image, ``EPHEMERAL`` True if the fresh root never survives anyway (tmpfs),
    ``API`` the contract's version it was written for.

    ``ON_DEVICE`` is True if what it wipes is on one block device: the stage then finds
    that device and its ``subvolume``, and refuses if configuration and command line
    disagree. False: the wiper reads ``Boot.root`` itself, and ``mismatch`` judges it.
    ``LAYERED`` is True if the fresh root is a layer over an installed root, which stays as it is
    and boots if nothing is made fresh. Boots of the two alternate then, and which root the boot
    before used is recorded (``Boot.booted``).
    ``BOOTS_OLD_ROOTS`` is True if ``wipe`` understands ``Boot.request``.
    ``MOUNTS_ROOT`` is True if ``wipe`` leaves the fresh root mounted at
    ``Boot.mount_point``; such a wiper makes only roots, no volumes.
    ``SUBVOLUMES_OF`` is the type of filesystem (mount(8)) of which it makes a subvolume fresh,
    mounted by its name (``subvol=``) and retired by a rename: its options of the kind ``path``
    then name other places there, which must be apart. Empty for a wiper that works otherwise.

    ``KEPT_BY`` are words of the kernel command line with which another program of the initramfs
    takes a snapshot of the root or rolls it back, before it is mounted: with one of them nothing is
    made fresh: that program would undo it, or use the fresh root instead.

    ``INSTALLED`` is the other half, as ``module:attribute``: a class derived from
    ``ephemeroot.backends.contract.Backend`` with the part of a backend that only the installed
    system uses (``init``, ``rehearse``, ``base``). It is never imported at boot, no image has it,
    and a derived wiper does not inherit it. Empty: there is nothing to say.
    """

    API = API
    NAME = ""
    OPTIONS: tuple[Option, ...] = ()
    EPHEMERAL = False
    ON_DEVICE = True
    MOUNTS_ROOT = False
    LAYERED = False
    BOOTS_OLD_ROOTS = False
    SUBVOLUMES_OF = ""
    KEPT_BY: tuple[str, ...] = ()
    INSTALLED = ""

    __slots__ = ("settings",)

    def __init__(self, settings: dict[str, object]) -> None:
        self.settings = {option.name: option.default for option in self.OPTIONS} | settings

    @classmethod
    def needs(cls, settings: dict[str, object]) -> Needs:
        """What the image needs for these settings."""
        raise NotImplementedError

    @classmethod
    def validate(cls, settings: dict[str, object]) -> list[Finding]:
        """Mistakes in *settings* that the kinds of ``OPTIONS`` cannot express."""
        return []

    @classmethod
    def starts_empty(cls, settings: dict[str, object]) -> bool:
        """Whether the fresh root has nothing but a skeleton, so that /usr must be a volume.

        Unless a wiper knows better: if it has an option ``base`` and that is not set.
        """
        if any(option.name == "base" for option in cls.OPTIONS):
            return not settings.get("base")
        return cls.EPHEMERAL

    @classmethod
    def mismatch(cls, settings: dict[str, object], root: str | None) -> str:
        """Why *root*, the value of ``root=`` on the kernel command line, is not what this
        wiper makes fresh; empty if it is. Asked if the wiper is not ``ON_DEVICE``.
        """
        return ""

    @classmethod
    def completed(cls, settings: dict[str, object], root: str | None) -> dict[str, object]:
        """*settings* with what *root*, the value of ``root=``, says instead of a setting that
        is not set: ``check`` validates these too.
        """
        return settings

    @classmethod
    def foreign(cls, settings: dict[str, object], root: str | None) -> str:
        """Why *root*, the value of ``root=``, names another root, which boots untouched; empty if
        it does not, or if that cannot be told. Not asked for one that is ``ON_DEVICE``: see
        ``identify``.
        """
        return "" if cls.ON_DEVICE else cls.mismatch(settings, root)

    def identify(self, named: Named) -> dict[str, str]:
        """What the named root is, as far as *named* tells, in words that no reboot and no new root
        changes, and never a device's name: ``filesystem`` (UUID) and ``subvolume`` (path), or
        others. ``apply`` puts it into the plan; a boot that finds another value wipes nothing.

        Raises ``OSError`` or ``EphemerootError`` if it cannot be found out.
        """
        found = {}
        if named.device and named.reads and self.ON_DEVICE:
            uuid = devices.filesystem_uuid(named.device)
            if uuid is not None:
                found["filesystem"] = uuid
        if named.subvolume is not None and self.ON_DEVICE:
            found["subvolume"] = named.subvolume
        return found

    def unrecorded(self, named: Named, system: str) -> str:
        """Why the root that *named* leads to is not made fresh by a plan of *system* without
        a root: nothing on the disk says that an earlier wipe made it. Empty if it may be, as the
        first one that is ever made fresh.

        Raises ``OSError`` or ``EphemerootError`` if it cannot be found out.
        """
        return ""

    def identify_mounted(self, target: str) -> dict[str, str]:
        """The same for the root that is mounted at *target*, which no wipe of this boot has made.
        Empty if that cannot be told.
        """
        mount = mountinfo.mounted_at(os.path.realpath(target))
        if mount is None or not self.ON_DEVICE or not mount.source.startswith("/"):
            return {}
        found = {}
        uuid = devices.filesystem_uuid(mount.source)
        if uuid is not None:
            found["filesystem"] = uuid
        if mount.fstype == "btrfs":
            found["subvolume"] = mount.root.strip("/")
        return found

    @classmethod
    def takes(cls, settings: dict[str, object], root: str | None, device: str) -> str:
        """Why a volume on *device* would be wiped with the target; empty if it stays. *root*
        as for ``mismatch``. For paths that no option of the kind ``path`` names.
        """
        return ""

    @classmethod
    def root_type(cls, settings: dict[str, object]) -> str:
        """The type of filesystem (mount(8)) as which the wiper mounts the root itself; empty if it
        does not say.
        """
        return ""

    @classmethod
    def occupies(cls, settings: dict[str, object]) -> list[str]:
        """Absolute paths of the machine, on volumes, that nothing else may be kept in."""
        return []

    def describe(self, target: str, device: str | None, subvolume: str | None) -> str:
        """One line, the same for the plan, the dry run, the boot log and the report."""
        raise NotImplementedError

    def wipe(self, boot: Boot) -> Outcome:
        """Make the root fresh. Atomic, or recoverable at the next boot.

        Raises ``Refused`` if a proof failed (nothing was changed) and ``OSError`` or
        ``EphemerootError`` otherwise; whatever is raised, the root's name then still
        has the previous root or a complete fresh one.
        """
        raise NotImplementedError

    def fall_back(self, boot: Boot) -> Outcome:
        """Mount a fresh root with its layer in memory, since ``wipe`` has failed: the installed one
        must not be booted writable. Nothing is proven, handed over or changed on a disk.
        Asked of one that is ``LAYERED``; raises as ``wipe``.
        """
        raise NotImplementedError

    def mount_below(self, installed: Installed) -> int:
        """A detached, read-only mount of the installed root that the fresh one is a layer over.
        Asked of one that is ``LAYERED``.
        """
        raise NotImplementedError

    def open_layer(self, installed: Installed, booted: Iterable[dict[str, dict[str, str]]]) -> int:
        """The open directory of the layer that the boot before used, see ``Boot.booted``; -1 if
        there is none. Asked of one that is ``LAYERED``, in a boot whose root was kept.
        """
        return -1

    def mark_boot_complete(self, root: int) -> bool:
        """Record that the *root*, open at the top of its mount, was booted to the end.

        Returns False if there is nothing to record: no history, or no wipe made that root.
        """
        return False

    def nested(self, root: int) -> list[str]:
        """Paths, relative to the open *root*, of subvolumes and the like: content that looks like
        a filesystem of its own, and would still be retired and deleted with the root.

        Called on the installed system only. Raises ``PermissionError`` for a user who may not
        look and ``ImportError`` without the library for it.
        """
        return []

    @property
    def has_base(self) -> bool:
        """Whether fresh roots are copies of a base that ``ephemeroot base`` changes."""
        return False

    @property
    def keeps(self) -> bool:
        """Whether old roots are kept with these settings, so that there is a history."""
        return False

    @property
    def boots_previous(self) -> bool:
        """Whether the root that boots if nothing is wiped has all that the previous boot had in
        its root.
        """
        return True

    @property
    def marks_kept(self) -> bool:
        """Whether ``wipe`` marks the previous root ``.keep`` where ``Boot.hand_over`` says so.
        Otherwise nothing is wiped while it has something that cannot be seeded.
        """
        return False

    def history(self, installed: Installed) -> History | None:
        """The old roots, and what the present one was made of, open until its ``close``.

        ``None`` for a wiper that keeps none and whose roots begin empty. Raises ``Refused``
        or ``Locked``. Called on the installed system only.
        """
        return None

    def is_fresh(self, target: str, fresh: dict[str, str]) -> bool:
        """Whether the mount at *target* is the root that ``Outcome.fresh`` names."""
        raise NotImplementedError


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name in ("Boot", "Outcome"):
            from ephemeroot.wipers import boot

            return getattr(boot, name)
        raise AttributeError(f"module {__name__} has no attribute {name}")
