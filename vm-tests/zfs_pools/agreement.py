"""`check` and the two stages agree for a root on a real pool.

The configurations of tests/hooks/test_agreement.py for a rollback and a rotation: kinds of stores
and methods, wrong configurations, and states of the pool of which `check` warns. Each is a case of
this module; a sample of them runs in CI.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import proof
from agreement import METHODS, ROOT, SIZE, Case, Site, add_programs, boots, fill
from ephemeroot.linux import mounts
from ephemeroot.status import obstacles
from loop_device import attached
from zfs_pools.pool import (
    POOL,
    clone,
    create,
    destroy,
    exists,
    mounted,
    only_in_proof,
    run,
    snapshot,
)

BASE = "cases/ROOT/base"
KEEP = "cases/keep"
HOME = "cases/home"
INSIDE = f"{ROOT}/store"
LATER = f"{ROOT}@later"
ON_A_POOL = ("zfs", "zfs-rotated")
SCRATCH = Path("/run/agreement")


class PoolSite(Site):
    """A machine with its root in the pool. Its store is a dataset, or on a loop device."""

    def make_root(self) -> None:
        held = run("zfs", "list", "-Hpo", "userrefs,name", "-t", "snapshot").splitlines()
        for line in held:
            holds, _, name = line.partition("\t")
            if holds != "0":
                run("zfs", "release", "mine", name)
        for name in ("cases/ROOT", KEEP, HOME, f"{HOME}-base"):
            if exists(name):
                run("zfs", "destroy", "-R", name)
        create("cases/ROOT", "none")
        for name in (BASE, HOME):
            create(name, "legacy")
        with mounted(BASE) as top:
            fill(top)
        snapshot(f"{BASE}@blank", f"{HOME}@blank")
        clone(f"{BASE}@blank", ROOT, "legacy")
        snapshot(f"{ROOT}@blank")

    def make_store(self) -> None:
        if self.case.kind != "zfs":
            super().make_store()
            return
        name = self.case.device or self.volume
        if name.startswith(f"{POOL}/") and not exists(name):
            create(name, "legacy")
        with mounted(name) as top:
            self.mark(top)

    def mount_root(self) -> None:
        mounts.attach_at(mounts.create("zfs", ROOT, ["ro"]), str(self.sysroot))

    def objections(self) -> list[str]:
        """The errors of `check`, and its warnings about the pool."""
        found = super().objections()
        if found:
            return found
        plan = self.plan()
        (self.tree.path / "etc/ephemeroot/plan.json").write_bytes(plan.dump())
        return [one.reason for one in obstacles.look(str(self.tree.path), plan)]

    def upgrade(self) -> None:
        self.power_off()
        if self.case.root == "zfs-rotated":
            with mounted(BASE) as top:
                add_programs(top)
            run("zfs", "rename", f"{BASE}@blank", f"{BASE}@earlier")
            snapshot(f"{BASE}@blank")
            return
        run("zfs", "rollback", "-r", f"{ROOT}@blank")
        with mounted(ROOT) as top:
            add_programs(top)
        destroy(f"{ROOT}@blank")
        snapshot(f"{ROOT}@blank")
        with mounted(ROOT) as top:
            (top / "lost").touch()


FRESH = (
    '[[volumes]]\nmount-point = "{point}"\ndevice = "cases/home"\ntype = "zfs"\n'
    'options = [{options}]\nwipe = {{{{ wiper = "zfs" }}}}\n'
)

SOUND = [Case(root, kind, method) for root in ON_A_POOL for kind in ("zfs", "ext4", "btrfs")
         for method in METHODS]  # fmt: skip
ODD = [
    *(Case(root, kind, options="ro") for root in ON_A_POOL for kind in ("zfs", "ext4")),
    *(Case(root, kind, type=other) for root in ON_A_POOL
      for kind, other in (("ext4", "xfs"), ("zfs", "ext4"), ("btrfs", "ext4"))),
    *(Case(root, "zfs", device=INSIDE) for root in ON_A_POOL),
    *(Case(root, "zfs", paths=(path,)) for root in ON_A_POOL
      for path in ("/usr/bin", "/bin", "/usr/share", "/lib/firmware", "/boot", "/usr/local",
                   "/opt", "/var")),
    *(Case(root, "zfs", overlays=overlays) for root in ON_A_POOL
      for overlays in (("/usr/share",), ("/opt", "/opt/a"), ("/opt", "/opt/a", "/opt/a/b"))),
    *(Case(root, "zfs", volumes=FRESH.format(point=point, options="")) for root in ON_A_POOL
      for point in ("/home", "/opt", "/usr", "/usr/share", "/boot", "/usr/local")),
    *(Case(root, "zfs", volumes=FRESH.format(point="/home", options='"ro"'))
      for root in ON_A_POOL),
    *(Case("zfs-rotated", "zfs", more=more) for more in (
        'old-roots = "cases/ROOT/root/old"', 'old-roots = "cases/ROOT/base/old"',
        'old-roots = "cases/ROOT"', 'old-roots = "cases/old"')),
]  # fmt: skip


def nothing() -> None:
    """A pool without faults."""


def no_snapshot_of_the_root() -> None:
    destroy(f"{ROOT}@blank")


def held() -> None:
    snapshot(LATER)
    run("zfs", "hold", "mine", LATER)


def cloned() -> None:
    snapshot(LATER)
    clone(LATER, "cases/ROOT/copy", "none")


def bookmarked() -> None:
    snapshot(LATER)
    run("zfs", "bookmark", LATER, f"{ROOT}#mark")
    destroy(LATER)


def with_a_child() -> None:
    create(f"{ROOT}/child", "none")


def mounted_by_zfs() -> None:
    run("zfs", "set", "mountpoint=/cases", ROOT)
    run("zfs", "set", "-u", "canmount=on", ROOT)


def _state(name: str, commands: str) -> Callable[[], None]:
    """*commands* for a shell; R, B, K and H are the root, its base, the store and the home."""

    def state() -> None:
        datasets = f"R={ROOT} B={BASE} K={KEEP} H={HOME}"
        run("sh", "-ec", f"{datasets}\nmkdir -p /run/m\n{commands}")

    state.__name__ = name
    return state


def _larger(dataset: str) -> str:
    """Commands that add 2 MiB to a dataset."""
    write = "head -c 2M /dev/urandom > /run/m/larger"
    return f"mount -t zfs {dataset} /run/m; {write}; umount /run/m\n"


HOME_ROTATES = FRESH.format(point="/home", options="").replace(
    'wiper = "zfs"', f'wiper = "zfs", mode = "rotate", dataset = "{HOME}", base = "{HOME}-base"'
)
_COPY_HOME = "zfs send $H@blank | zfs receive -u -o mountpoint=legacy $H-base"
ROLLED, ROTATED = (Case(root, "zfs") for root in ON_A_POOL)
WITH_ZFSUTIL = Case("zfs", "zfs", options="zfsutil")
OF_PROPERTIES = [
    (case, _state(name, commands))
    for case, name, commands in (
        # Without faults.
        (WITH_ZFSUTIL, "store_with_a_mountpoint", "zfs set -u mountpoint=/x canmount=noauto $K"),
        (Case("zfs-rotated", "zfs", volumes=HOME_ROTATES), "home_rotates", _COPY_HOME),
        (ROTATED, "base_is_held", "zfs hold mine $B@blank"),
        (ROTATED, "root_is_received", ("zfs send -p $R@blank | zfs receive -u cases/ROOT/r; "
         "zfs destroy -r $R; zfs rename cases/ROOT/r $R")),
        (ROTATED, "user_properties", "zfs set org.openzfs.systemd:required-by=x a:b=c $R"),
        (ROTATED, "limits", "zfs set filesystem_limit=9 snapshot_limit=9 cases/ROOT"),
        (ROTATED, "snapshots_are_visible", "zfs set snapdir=visible $R $B $K"),
        (ROTATED, "mountpoint_is_inherited", ("zfs set -u mountpoint=/x cases/ROOT; "
         "zfs inherit mountpoint $R")),
        (ROTATED, "root_is_read_only", "zfs set readonly=on $R"),
        # A boot would refuse these.
        (ROTATED, "refquota_is_too_small", (f"zfs set refquota=1M $R; {_larger('$B')}"
         "zfs rename $B@blank $B@small; zfs snapshot $B@blank")),
        (ROLLED, "refquota_is_too_small", (f"{_larger('$R')} zfs destroy $R@blank; zfs snapshot "
         "$R@blank; mount -t zfs $R /run/m; rm /run/m/larger; umount /run/m; sync; "
         "zpool sync cases; zfs set refquota=1M $R")),
        (ROLLED, "clone_is_promoted", ("zfs clone -o mountpoint=none $R@blank cases/ROOT/c; "
         "zfs promote cases/ROOT/c")),
        (ROTATED, "base_has_another_name", "zfs rename $B cases/ROOT/other"),
        (ROTATED, "base_has_no_snapshot", "zfs rename $B@blank $B@other"),
        (Case("zfs-rotated", "zfs", more='old-roots = "cases/ROOT/none/old"'), "no_parent", ""),
        (Case("zfs-rotated", "zfs", more=f'old-roots = "cases/{"x" * 200}"'), "long_name", ""),
        (ROLLED, "no_store", "zfs destroy $K"),
        (ROLLED, "store_needs_zfsutil", "zfs set -u mountpoint=/x canmount=noauto $K"),
        (WITH_ZFSUTIL, "store_is_legacy", ""),
        (ROLLED, "store_is_read_only", "zfs set readonly=on $K"),
        (ROLLED, "store_is_a_volume", "zfs destroy $K; zfs create -V 8M $K"),
        (Case("zfs", "zfs", volumes=FRESH.format(point="/home", options="")),
         "home_has_no_snapshot", "zfs destroy $H@blank"),
        (Case("zfs", "zfs", volumes=FRESH.format(point="/home", options="")),
         "home_has_a_later_snapshot", "zfs snapshot $H@later"),
        (Case("zfs-rotated", "zfs", volumes=HOME_ROTATES), "home_has_no_base", ""),
    )
]  # fmt: skip
HARMLESS = {state for _, state in OF_PROPERTIES[:9]} | {nothing}

STATES: list[tuple[Case, Callable[[], None]]] = [
    (Case(root, "zfs"), state)
    for root in ON_A_POOL
    for state in (nothing, no_snapshot_of_the_root, held, cloned, bookmarked, with_a_child,
                  mounted_by_zfs)
]  # fmt: skip


def judge(case: Case, state: Callable[[], None]) -> None:
    """Check the configuration, and boot it twice."""
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir()
    image = SCRATCH / "v.img"
    with image.open("wb") as file:
        file.truncate(SIZE)
    with attached(image) as device:
        site = PoolSite(SCRATCH, case, ROOT, KEEP if case.kind == "zfs" else str(device))
        try:
            state()
            objections = site.objections()
            sound = boots(site)
        finally:
            site.power_off()
    assert sound == (objections == []), (sound, objections)
    assert objections == [] or state not in HARMLESS or (state is nothing and case not in SOUND)


def _named(
    table: str, cases: list[tuple[Case, Callable[[], None]]]
) -> dict[str, Callable[[], None]]:
    """The cases as functions, by their names."""
    found: dict[str, Callable[[], None]] = {}
    for number, (case, state) in enumerate(cases):
        found[f"case_{table}_{number:02}_{case.name}_{state.__name__}"] = (
            lambda case=case, state=state: judge(case, state)  # type: ignore[misc]
        )
    return found


TABLES = (
    (_named("sound", [(case, nothing) for case in SOUND]), 1),
    (_named("odd", [(case, nothing) for case in ODD]), 1),
    (_named("state", STATES), 1),
    (_named("properties", OF_PROPERTIES), 1),
)
"""Each with the size of the sample for CI."""

for _number, (_cases, _size) in enumerate(TABLES):
    _sample = proof.sample(list(_cases), _size, seed=_number)
    for _name, _case in _cases.items():
        globals()[_name] = _case if _name in _sample else only_in_proof(_case)
