"""What a wiper is: the contract between the boot code, the installed side and a backend.

A wiper is a class, found through the entry-point group ``ephemeroot.wipers`` when the
image is built and named in the plan as ``module:attribute``. Its module is imported in
the initramfs, so it must keep to the import budget: ``os sys json errno ctypes time``,
and its own library only inside the methods that need it. Describing a wiper, checking
its settings and building its image never need its library.
"""

from __future__ import annotations

import os

from ephemeroot.linux import devices, mountinfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Protocol

    from ephemeroot.wipers.history import History, Installed

    class Closing(Protocol):
        """What the stage closes when the last wipe of a boot is done."""

        def close(self) -> None: ...


API = 1
"""The version of this contract. A wiper with another ``api`` is refused at ``check``."""


class Option:
    """One key of the wiper's configuration table.

    ``kind`` is one of ``string``, ``path`` (relative to the top of the filesystem),
    ``integer`` (0 to 1,000,000,000), ``days`` (0 to 100,000), ``boolean``, ``size``
    (``512M``), ``amount`` (a size or a percentage), ``mode``, ``volume`` (the mount point of
    a volume needed for boot, on which something can be kept), ``dataset`` (the full name of
    a ZFS dataset) and ``strings``. ``default`` is what the plan gets if the
    key is left out. ``help`` is one line for the manual and the JSON Schema.
    """

    __slots__ = ("default", "help", "kind", "name")

    def __init__(self, name: str, kind: str, default: object, help: str) -> None:
        self.name = name
        self.kind = kind
        self.default = default
        self.help = help


def retention(what: str = "old root", only: str = "") -> tuple[Option, ...]:
    """The options of a wiper that keeps old roots, the same for each (see ``retention``): *what*
    it calls one, and *only* in which mode it keeps them, with a colon.
    """
    when = f"{only} " if only else ""
    return (
        Option("keep-days", "days", 30, f"{when}days for which every {what} is kept"),
        Option("keep-last", "integer", 3, f"{when}{what}s that are kept whatever their age"),
        Option("keep-at-most", "integer", None, f"{when}{what}s at most, however young they are"),
        Option("min-free", "amount", None, f"{when}below it the oldest {what}s go early"),
    )


_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,), "path": (str,), "integer": (int,), "days": (int,), "boolean": (bool,),
    "size": (int,), "amount": (str,), "mode": (int,), "volume": (str,), "dataset": (str,),
    "strings": (list, tuple),
}  # fmt: skip
"""What a plan has for each kind. ``None`` is a key that was left out."""


def wrong_type(options: Iterable[Option], settings: dict[str, object]) -> str:
    """The first key of *settings* whose value is not of its option's kind, empty if there is none:
    a plan is input that may be damaged.
    """
    for option in options:
        value, types = settings.get(option.name), _TYPES.get(option.kind)
        if value is None or types is None:
            continue
        if isinstance(value, bool) and types != (bool,):
            return option.name
        if not isinstance(value, types) or (isinstance(value, int) and not 0 <= value < 1 << 63):
            return option.name
        if isinstance(value, (list, tuple)) and not all(isinstance(item, str) for item in value):
            return option.name
    return ""


class Finding:
    """Something that ``validate`` found: ``key`` is the option, ``hint`` what to do."""

    __slots__ = ("hint", "key", "reason", "warning")

    def __init__(self, key: str, reason: str, hint: str = "", *, warning: bool = False) -> None:
        self.key = key
        self.reason = reason
        self.hint = hint
        self.warning = warning


class Needs:
    """What a wiper's image needs beyond the boot code itself.

    ``kernel_modules`` and ``filesystems`` are kernel module names, ``programs`` are
    looked up in PATH, ``python`` are modules to import for real while the closure is
    traced, ``exercise`` (``module:function``, no arguments) is called while it is
    traced, for what a library loads only at its first call, and once more in the packed
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


class Boot:
    """What the wipe stage gives a wiper.

    ``private`` is an empty directory of the wiper's own, below which it may mount (and
    must unmount again). ``device`` and ``subvolume`` say what is to be made fresh: the
    plan's, else the kernel command line's; ``target`` is the mount point it will have
    (``/``, or a volume's). ``now`` is the time in seconds since 1970 and
    ``synchronised`` whether that clock is known to be right. ``request`` is the name of
    an old root to boot, or ``None``. ``boot_id`` identifies this boot. ``budget`` is
    how many seconds pruning may take. ``pinned`` has the names of old roots that
    something still needs (unfinished seeding): they are not pruned.

    ``prove(path)`` must be called with the mounted fresh root before it takes the
    root's place: it raises ``Refused`` if that root could not boot. ``hand_over`` must be
    called with the mounted previous root (if there is one; the newest in the history that
    lived, if that one did not) once every proof has held and before the fresh root takes its
    place. ``log(line)`` reports one step. ``dry_run``: describe, change nothing; ``prove``
    gets what the fresh root would be a copy of, and ``describe_hand_over`` is called in the place
    of ``hand_over``.

    ``device`` is empty for a wiper that is not ``ON_DEVICE``; ``root`` and ``root_flags``
    are what ``root=`` and ``rootflags=`` say, word for word. ``mount_point`` is the
    directory where the fresh root will be mounted (``/sysroot``), by the initramfs or by a
    wiper that ``MOUNTS_ROOT``; ``mount_points`` are the paths inside it at which volumes
    will be attached, for a root that starts empty. ``volumes`` maps the mount points of the
    volumes that are mounted already, privately, to where they are.

    ``system`` is the id of the system that boots, which owns its history (``History.system``).
    ``booted`` says which roots the last boots used, the newest first: ``{"fresh": …}`` is what
    ``Outcome.fresh`` said, ``{"kept": …}`` what ``identify_mounted`` said of a root that was not
    made fresh. Empty if that is not known; recorded for a wiper that is ``LAYERED``.

    ``shared`` is where a wiper may leave, under a name of its own choice, what another wipe
    of the same boot can use again (a mount of the same filesystem); the stage calls
    ``close`` on each when all wipes are done. ``None``: there will be no other.
    """

    __slots__ = (
        "boot_id", "booted", "budget", "device", "dry_run", "handed", "handed_boots",
        "handed_layers", "handed_over",
        "log", "mount_point", "mount_points", "now", "pinned", "previous", "private", "prove",
        "request", "root", "root_flags", "shared", "subvolume", "synchronised", "system", "target",
        "volumes",
    )  # fmt: skip

    def __init__(
        self,
        *,
        device: str,
        subvolume: str | None,
        target: str,
        private: str,
        boot_id: str,
        now: float,
        synchronised: bool,
        prove: Callable[[str], None],
        log: Callable[[str], None],
        previous: Callable[[str, bool], bool | None] = lambda path, lived: None,
        handed_over: Callable[[], Iterable[str]] = tuple,
        request: str | None = None,
        budget: float = 1.0,
        dry_run: bool = False,
        pinned: Iterable[str] = (),
        root: str | None = None,
        root_flags: Iterable[str] = (),
        mount_point: str = "",
        mount_points: Iterable[str] = (),
        volumes: dict[str, str] | None = None,
        shared: dict[str, Closing] | None = None,
        system: str = "",
        booted: Iterable[dict[str, dict[str, str]]] = (),
    ) -> None:
        self.system = system
        self.booted = list(booted)
        self.handed = ""
        self.handed_boots = True
        self.handed_layers: tuple[str, str] | None = None
        self.handed_over = handed_over
        self.shared = shared
        self.volumes = volumes or {}
        self.root = root
        self.root_flags = tuple(root_flags)
        self.mount_point = mount_point
        self.mount_points = tuple(mount_points)
        self.device = device
        self.subvolume = subvolume
        self.target = target
        self.private = private
        self.boot_id = boot_id
        self.now = now
        self.synchronised = synchronised
        self.prove = prove
        self.log = log
        self.previous = previous
        self.request = request
        self.budget = budget
        self.dry_run = dry_run
        self.pinned = frozenset(pinned)

    def hand_over(
        self, path: str, lived: bool, name: str = "", *, boots: bool = True,
        layers: tuple[str, str] | None = None,
    ) -> bool:  # fmt: skip
        """Seed the stores from the previous root, mounted at *path*; whether that root must
        be marked ``.keep`` before the fresh root takes its place, for it has something that
        could not be seeded. *lived*: whether a boot of it was complete; *name*: its name in
        the history, without flags; *boots*: whether it is the root that boots if nothing is
        wiped; *layers*: the upper and the lower directory that it is mounted from, if it is an
        overlay. Raises ``Refused`` if nothing may be wiped.
        """
        self.handed_layers = layers
        self.handed = name
        self.handed_boots = boots
        return bool(self.previous(path, lived))

    def describe_hand_over(self) -> None:
        """Log what ``hand_over`` would seed from a root of which a boot was complete."""
        for line in self.handed_over():
            self.log(line)


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


class Outcome:
    """What a wipe did. All values are plain JSON; they go into the boot report.

    ``fresh`` identifies the fresh root so that the persistence stage can verify what is
    mounted (btrfs: ``{"uuid": filesystem, "subvolume": path, "subvolume-uuid": …}``).
    ``retired`` is the name the previous root got in the history, or ``None``.
    ``pruned`` and ``kept`` are names in the history; ``recovered`` says in one line
    each what an interrupted earlier boot had left and what became of it; ``problems``
    are failures that did not stop the wipe.
    """

    __slots__ = ("fresh", "kept", "problems", "pruned", "recovered", "retired")

    def __init__(
        self,
        *,
        fresh: dict[str, str],
        retired: str | None = None,
        pruned: Iterable[str] = (),
        kept: Iterable[str] = (),
        recovered: Iterable[str] = (),
        problems: Iterable[str] = (),
    ) -> None:
        self.fresh = fresh
        self.retired = retired
        self.pruned = list(pruned)
        self.kept = list(kept)
        self.recovered = list(recovered)
        self.problems = list(problems)


class Wiper:
    """The base of every wiper.

    ``settings`` has every key of ``OPTIONS``, validated, with the default of what was left
    out or did not exist when the plan was made. Class attributes:
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
    made fresh, for it would be undone, or be what that program works on.

    ``INSTALLED`` is the other half, as ``module:attribute``: a class derived from
    ``ephemeroot.backends.contract.Backend`` with what only the installed system asks of a
    backend (``init``, ``rehearse``, ``base``). It is never imported at boot, no image has it,
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
        """*settings* with what *root*, the value of ``root=``, says in the place of a setting that
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
        """Why the root that *named* leads to is not made fresh by a plan of *system* that names no
        root: nothing on the disk says that an earlier wipe made it. Empty if it may be, as the
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
        """Why a volume on *device* would go with what is made fresh; empty if it stays. *root*
        as for ``mismatch``. For what no option of the kind ``path`` tells.
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

    def mark_lived(self, target: str) -> bool:
        """Record that the root mounted at *target* was booted to the end.

        Returns False if there is nothing to record: no history, or no wipe made that root.
        """
        return False

    def nested(self, root: int) -> list[str]:
        """Paths, relative to the open *root*, of what is in it and would be retired and deleted
        with it although it looks like a filesystem of its own (subvolumes).

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
        """Whether what is mounted at *target* is the root that ``Outcome.fresh`` names."""
        raise NotImplementedError
