"""One wipe at boot: what the stage gives a wiper, and what it gets back.

Part of the contract: a wiper imports these names from ``contract``.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Protocol

    class Closing(Protocol):
        """What the stage closes when the last wipe of a boot is done."""

        def close(self) -> None: ...


class Boot:
    """What the wipe stage gives a wiper.

    ``private`` is an empty directory of the wiper's own, below which it may mount (and
    must unmount again). ``device`` and ``subvolume`` name the root to wipe: the
    plan's, else the kernel command line's; ``target`` is the mount point it will have
    (``/``, or a volume's). ``now`` is the time in seconds since 1970 and
    ``synchronised`` whether that clock is known to be right. ``request`` is the name of
    an old root to boot, or ``None``. ``boot_id`` identifies this boot. ``budget`` is
    how many seconds pruning may take. ``pinned`` has the names of old roots that
    unfinished seeding still needs: they are not pruned.

    ``prove(path)`` must be called with the mounted fresh root before it takes the
    root's place: it raises ``Refused`` if that root could not boot. ``hand_over`` must be
    called with the mounted previous root (if it exists and is boot-complete; otherwise
    the newest boot-complete root of the history) once every proof has held and before the
    fresh root takes its place. ``log(line)`` reports one step. ``dry_run``: describe,
    change nothing; ``prove`` gets the source of the fresh root, and
    ``describe_hand_over`` is called instead of ``hand_over``.

    ``device`` is empty for a wiper that is not ``ON_DEVICE``; ``root`` and ``root_flags``
    are the values of ``root=`` and ``rootflags=``, unchanged. ``mount_point`` is the
    directory where the fresh root will be mounted (``/sysroot``), by the initramfs or by a
    wiper that ``MOUNTS_ROOT``; ``mount_points`` are the paths inside it at which volumes
    will be attached, for a root that starts empty. ``volumes`` maps the mount points of the
    volumes that are already mounted to their private directories.

    ``system`` is the id of the system that boots, which owns its history (``History.system``).
    ``booted`` lists the roots of the last boots, the newest first: ``{"fresh": …}`` is the value
    of ``Outcome.fresh``, ``{"kept": …}`` that of ``identify_mounted`` for a kept
    root. Empty if that is not known; recorded for a wiper that is ``LAYERED``.

    ``shared`` has objects, under a name of the wiper's choice, that another wipe
    of the same boot can use (a mount of the same filesystem); the stage calls
    ``close`` on each when all wipes are done. ``None``: no other wipe follows.
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
        previous: Callable[[str, bool], bool | None] = lambda path, complete: None,
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
        self, path: str, complete: bool, name: str = "", *, boots: bool = True,
        layers: tuple[str, str] | None = None,
    ) -> bool:  # fmt: skip
        """Seed the stores from the previous root, mounted at *path*; whether that root must
        be marked ``.keep`` before the fresh root takes its place, because it has something
        that could not be seeded. *complete*: whether a boot of it was complete; *name*: its name in
        the history, without flags; *boots*: whether it is the root that boots if nothing is
        wiped; *layers*: the upper and the lower directory that it is mounted from, if it is an
        overlay. Raises ``Refused`` if nothing may be wiped.
        """
        self.handed_layers = layers
        self.handed = name
        self.handed_boots = boots
        return bool(self.previous(path, complete))

    def describe_hand_over(self) -> None:
        """Log what ``hand_over`` would seed from a root of which a boot was complete."""
        for line in self.handed_over():
            self.log(line)


class Outcome:
    """What a wipe did. All values are plain JSON; they go into the boot report.

    ``fresh`` identifies the fresh root so that the persistence stage can verify
    the mount (btrfs: ``{"uuid": filesystem, "subvolume": path, "subvolume-uuid": …}``).
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
