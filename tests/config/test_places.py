"""Where root, base, old-roots, old-bases and a store may be: every layout that `check` accepts
boots.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from btrfs_image import DEFAULTS, NOON, Disk, Site, btrfsutil, fresh_disk
from ephemeroot.backends.btrfs.bases import Bases
from ephemeroot.config import Problem
from ephemeroot.errors import Refused
from ephemeroot.wipers.btrfs.toplevel import Toplevel
from ephemeroot.wipers.overlay import Overlay
from ephemeroot.wipers.overlay.uppers import FOLDER
from ephemeroot.wipers.zfs import Zfs
from machine_tree import DEVICE, MachineTree
from proof import sample

PLACES = ("a", "a/b", "a/b/c", "d", "e", "f/x", "g")
"""For the subvolumes of the root, the base and the store's volume, and for the directories of old
ones: equal, one inside another by one or two levels, and separate.
"""

STORES = ("", "store", "b", "b/c")
"""The store's directory in its volume."""

ROLES = ("root", "base", "old_roots", "old_bases", "volume", "store")

Layout = tuple[str, ...]

TABLE: list[Layout] = list(itertools.product(*[PLACES] * 5, STORES))


def configuration(layout: Layout, device: str = DEVICE) -> str:
    root, base, old_roots, old_bases, volume, store = layout
    return f"""\
[root]
wiper = "btrfs"
external-boot = true
[root.btrfs]
device = "{device}"
subvolume = "{root}"
base = "{base}"
old-roots = "{old_roots}"
old-bases = "{old_bases}"
[[volumes]]
mount-point = "/data"
device = "{device}"
type = "btrfs"
options = ["subvol={volume}"]
[persistence."{"/data/" + store if store else "/data"}"]
directories = ["/srv"]
"""


def problems(tree: MachineTree, layout: Layout) -> list[Problem]:
    """The problems that `check` finds in the layout. The only warning concerns a directory that
    may also be a subvolume.
    """
    (tree.path / "etc/ephemeroot/ephemeroot.toml").write_text(configuration(layout))
    (tree.path / "etc/fstab").write_text(f"{DEVICE} / btrfs subvol={layout[0]} 0 0\n")
    found = tree.examination().problems
    return [p for p in found if not p.warning or "each boot refuses it" in p.reason]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    with fresh_disk(tmp_path_factory.mktemp("disk"), 512) as made:
        yield made


def make(site: Site, layout: Layout) -> Path:
    """Create the layout on a real filesystem, and return the store."""
    root, base, _, _, volume, store = layout
    for path in sorted({root, base, volume}):
        place = site.path / path
        place.parent.mkdir(parents=True, exist_ok=True)
        btrfsutil.create_subvolume(str(place))
        (place / "file").write_text(path)
    folder = site.path / volume / store
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kept").write_text("kept")
    return folder


def boots(site: Site, layout: Layout) -> str:
    """Wipe the root twice and open the old bases; the reason if that is refused."""
    root, base, old_roots, old_bases, _, _ = layout
    below = f"{site.name}/"
    site.settings = DEFAULTS | {
        "base": below + base, "old-roots": below + old_roots, "old-bases": below + old_bases,
    }  # fmt: skip
    site.root = site.path / root
    try:
        for now in (NOON, NOON + 100):
            site.rotate(now)
            site.live()
        with Toplevel(site.disk.loop, [], str(site.disk.private), writable=True) as top:
            Bases(top, below + base, below + old_bases, create=True).close()
    except Refused as error:
        return error.message
    return ""


@pytest.mark.requires_loop
def test_a_layout_that_check_accepts_boots_and_keeps_the_store(disk: Disk, tmp_path: Path) -> None:
    tree = MachineTree(tmp_path, None)
    (tree.path / "etc/ephemeroot").mkdir(parents=True)
    accepted = [layout for layout in sample(TABLE, 300) if not problems(tree, layout)]
    assert len(accepted) > 5
    for layout in sample(accepted, 12):
        site = disk.site()
        site.root = site.path / layout[0]
        store = make(site, layout)
        said = dict(zip(ROLES, layout, strict=True))
        assert boots(site, layout) == "", said
        assert (store / "kept").read_text() == "kept", said


@pytest.mark.requires_loop
def test_check_refuses_every_layout_that_a_boot_refuses(disk: Disk, tmp_path: Path) -> None:
    """The other direction: `check` must report a problem wherever a boot refuses."""
    tree = MachineTree(tmp_path, None)
    (tree.path / "etc/ephemeroot").mkdir(parents=True)
    refused = 0
    for layout in sample(TABLE, 40, seed=1):
        if layout[0] in (layout[1], layout[4]) or layout[1] == layout[4]:
            continue  # one subvolume cannot be created under two names
        site = disk.site()
        site.root = site.path / layout[0]
        make(site, layout)
        reason = boots(site, layout)
        refused += bool(reason)
        if reason:
            assert problems(tree, layout), (dict(zip(ROLES, layout, strict=True)), reason)
    assert refused > 5


@pytest.mark.parametrize("store", ["old-roots", "root-base", "old_bases"])
@pytest.mark.parametrize("inside", ["", "/x", "/x/y"])
@pytest.mark.parametrize("role", ["base", "old_roots", "old_bases", "root"])
def test_a_wipers_files_are_not_inside_a_store(
    tmp_path: Path, store: str, inside: str, role: str
) -> None:
    named = {"root": "r", "base": "b", "old_roots": "o", "old_bases": "p", "volume": store}
    layout = tuple((named | {role: store + inside}).get(one, "") for one in ROLES)
    tree = MachineTree(tmp_path, None)
    (tree.path / "etc/ephemeroot").mkdir(parents=True)
    assert [p for p in problems(tree, layout) if not p.warning]


@pytest.mark.parametrize("below", ["", "/upper", "/work", "/old-uppers", "/old-uppers/x/y"])
def test_refuses_a_store_among_the_layers_of_an_overlay(tmp_path: Path, below: str) -> None:
    tree = MachineTree(
        tmp_path,
        f"""\
[root]
wiper = "overlay"
external-boot = true
[root.overlay]
volume = "/data"
[[volumes]]
mount-point = "/data"
device = "UUID=3c2a1b0e-0000-4000-8000-000000000002"
type = "ext4"
[persistence."/data/{FOLDER}{below}"]
directories = ["/srv"]
""",
    )
    reasons = [p.reason for p in tree.examination().problems if not p.warning]
    assert any("which the wiper of the root uses" in reason for reason in reasons)
    assert Overlay.occupies({"volume": "/data"}) == [f"/data/{FOLDER}"]


NAMES = ("tank/a", "tank/a/b", "tank/a/b/c", "tank/old-roots", "tank/d")


@pytest.mark.parametrize("store", [*NAMES, "tank/a/old-roots", "tank/a/old-roots/x"])
def test_root_base_old_roots_and_store_must_be_separate_datasets(store: str) -> None:
    """Root, old-roots and base must not contain each other, and root and old-roots must not contain
    the store.
    """
    for root, base, old in itertools.product(NAMES, NAMES, (*NAMES, None)):
        settings = {option.name: option.default for option in Zfs.OPTIONS} | {
            "mode": "rotate", "dataset": root, "base": base, "old-roots": old,
        }  # fmt: skip
        kept = old or f"{root.rpartition('/')[0]}/old-roots"
        pairs = itertools.permutations((root, base, kept), 2)
        apart = not any(one == two or one.startswith(f"{two}/") for one, two in pairs)
        assert bool(Zfs.validate(settings)) != apart, settings
        inside = any(store == one or store.startswith(f"{one}/") for one in (root, kept))
        inside |= store == base  # a child dataset of the base is a separate dataset, and stays
        assert bool(Zfs.takes(settings, None, store)) == inside, settings
