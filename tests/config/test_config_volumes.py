"""Volumes: where they are declared, which properties they need, and in which order they are
mounted.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeroot.config import Configuration, Machine, Problem, volumes
from ephemeroot.config.model import Volume
from ephemeroot.config.syntax.problem import Place
from ephemeroot.linux import duplicates
from ephemeroot.machine import fstab
from machine_tree import DEVICE, FSTAB, MAIN, ROOT, SOUND, STORE, VOLUME, MachineTree

LINE = f"{DEVICE} /persistent btrfs subvol=persistent,noatime"


@pytest.fixture
def tree(tmp_path: Path) -> MachineTree:
    return MachineTree(tmp_path)


def found(tree: MachineTree) -> dict[str, Volume]:
    examination = tree.examination()
    assert not examination.errors, [str(error) for error in examination.errors]
    return {volume.mount_point: volume for volume in examination.volumes}


def volume(text: str) -> str:
    return SOUND + "[[volumes]]\n" + text


def test_parses_lines_of_fstab() -> None:
    text = (
        "# comment\n\nUUID=1 / ext4\nLABEL=\"a\" /mnt/ btrfs ro,x=1 0 0\n"
        "/dev/sda2 none swap sw 0 0\nproc /proc proc\nonly-one-field\n"
    )  # fmt: skip
    first, second, third = fstab.parse(text)
    assert (first.device, first.mount_point, first.type, first.number) == ("UUID=1", "/", "ext4", 3)
    assert (second.device, second.mount_point) == ("LABEL=a", "/mnt")
    assert second.options == ("ro", "x=1")
    assert third.options == ("defaults",)


def test_parses_escapes_in_fstab() -> None:
    (line,) = fstab.parse(
        "LABEL=a\\040b  /mnt/with\\040blank/  btrfs  ro,subvol=@a\\011b,x-initrd.mount"
    )
    assert (line.device, line.mount_point) == ("LABEL=a b", "/mnt/with blank")
    assert line.option("subvol") == "@a\tb"
    assert line.needed_for_boot
    assert fstab.parse(line.with_initrd()) == [
        fstab.FstabLine(line.device, line.mount_point, line.type, line.options, 1)
    ]


def test_reads_a_volume_of_the_configuration(tree: MachineTree) -> None:
    tree.write(MAIN, volume(
        'mount-point = "/srv//data/"\ndevice = "LABEL=data"\ntype = "ext4"\ntimeout = "10s"\n'
        'options = ["noatime", "x-gvfs-hide", "nofail"]\n'
    ))  # fmt: skip
    data = found(tree)["/srv/data"]
    assert (data.device, data.type, data.timeout) == ("LABEL=data", "ext4", 10)
    assert data.options == ("noatime",)
    assert data.name == "srv-data"


@pytest.mark.parametrize("value", ["0", '"0"', '"0s"', '"0 min 0s"', '"infinity"'])
def test_a_timeout_of_zero_waits_without_end(tree: MachineTree, value: str) -> None:
    kind = 'mount-point = "/srv/data"\ndevice = "LABEL=data"\ntype = "ext4"\n'
    tree.write(MAIN, volume(f"{kind}timeout = {value}\n"))
    assert found(tree)["/srv/data"].timeout == 0
    for bad in ('"-1"', "-1", '"soon"', '"infinite"', "1.5", '""'):
        tree.write(MAIN, volume(f"{kind}timeout = {bad}\n"))
        assert tree.complaint()


@pytest.mark.parametrize("value", ["0", "0s", "infinity"])
def test_a_timeout_of_zero_in_fstab_waits_without_end(tree: MachineTree, value: str) -> None:
    line = f"{LINE},x-initrd.mount,x-systemd.device-timeout={value} 0 0\n"
    tree.write("etc/fstab", FSTAB + line)
    tree.write(MAIN, ROOT + STORE)
    assert found(tree)["/persistent"].timeout == 0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("500ms", 1), ("1.5s", 2), ("2min30s", 150), ("1h 1s", 3601), ("2d", 86400), ("1us", 1),
     ("0.0", 0), ("00", 0), (" infinity", 0), ("abc", None), ("inf", None), ("-1", None),
     ("", None), ("5 parsecs", None), ("1s,", 1)],
)  # fmt: skip
def test_parses_the_timeout_of_a_line_like_systemd(
    tree: MachineTree, value: str, seconds: int | None
) -> None:
    """An invalid time means 90 seconds, and `check` says so."""
    written = value.replace(" ", "\\040")
    line = f"{LINE},x-initrd.mount,x-systemd.device-timeout={written} 0 0\n"
    tree.write("etc/fstab", FSTAB + line)
    tree.write(MAIN, ROOT + STORE)
    assert found(tree)["/persistent"].timeout == (90 if seconds is None else seconds)
    warned = [p for p in tree.problems() if "is not a time" in p.reason]
    assert bool(warned) == (seconds is None)
    assert tree.errors() == []


def test_a_line_with_x_initrd_mount_is_a_volume(tree: MachineTree) -> None:
    tree.write("etc/fstab", FSTAB + f"{LINE},x-initrd.mount,x-systemd.device-timeout=2min 0 0\n")
    tree.write(MAIN, ROOT + STORE)
    persistent = found(tree)["/persistent"]
    assert persistent.needed_for_boot
    assert persistent.options == ("subvol=persistent", "noatime")
    assert persistent.timeout == 120
    assert str(persistent.place) == f"{tree.show('etc/fstab')}:2: /persistent"


@pytest.mark.parametrize("options", ["", ",noauto,x-initrd.mount"])
def test_refuses_a_store_on_a_line_that_is_not_needed_for_boot(
    tree: MachineTree, options: str
) -> None:
    tree.write("etc/fstab", f"{FSTAB}{LINE}{options} 0 0\n")
    tree.write(MAIN, ROOT + STORE)
    assert tree.complaint() == (
        "the store /persistent is on /persistent, which is not mounted in the initramfs (change "
        f"its line in fstab to: {DEVICE}  /persistent  btrfs  "
        "subvol=persistent,noatime,x-initrd.mount  0  0)"
    )


def test_refuses_a_store_on_a_volume_that_is_not_needed_for_boot(tree: MachineTree) -> None:
    tree.write("etc/fstab", FSTAB + LINE)
    tree.write(MAIN, SOUND.replace("options =", "needed-for-boot = false\noptions ="))
    assert "set needed-for-boot = true" in tree.complaint()


def test_refuses_a_volume_declared_both_here_and_in_fstab(tree: MachineTree) -> None:
    tree.write("etc/fstab", f"{FSTAB}{LINE},x-initrd.mount\n")
    assert "/persistent is declared twice" in tree.complaint()
    assert f"{tree.show('etc/fstab')}:2" in tree.complaint()


def test_accepts_a_line_for_the_same_device_that_only_the_system_reads(tree: MachineTree) -> None:
    tree.write("etc/fstab", FSTAB + LINE)
    assert found(tree)["/persistent"].place.file == tree.show()
    tree.write("etc/fstab", FSTAB + LINE.replace(DEVICE, "UUID=other"))
    assert "/persistent is" in tree.complaint()
    assert "UUID=other" in tree.complaint()


def test_compares_uuids_as_udev_writes_them() -> None:
    assert volumes.same_device(DEVICE, DEVICE.upper())
    assert volumes.same_device(DEVICE, f"/dev/disk/by-uuid/{DEVICE[5:]}")
    assert not volumes.same_device(DEVICE, "LABEL=x")
    assert not volumes.same_device("tank/a", "tank/b")


def test_refuses_two_lines_for_one_mount_point(tree: MachineTree) -> None:
    line = f"{LINE},x-initrd.mount\n"
    tree.write("etc/fstab", FSTAB + line + line)
    tree.write(MAIN, ROOT + STORE)
    assert "is declared twice" in tree.complaint()


def test_refuses_two_volumes_on_one_mount_point(tree: MachineTree) -> None:
    tree.write(MAIN, ROOT + VOLUME + VOLUME.replace("/persistent", "/persistent/") + STORE)
    (error,) = tree.errors()
    assert (error.key, error.line) == ("volumes[1]", 10)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('mount-point = "/"\ndevice = "LABEL=x"\ntype = "ext4"', "the root is not a volume"),
        ('mount-point = "/run/x"\ndevice = "LABEL=x"\ntype = "ext4"', "every boot mounts a new"),
        ('mount-point = "/a"\ndevice = "LABEL=x"\ntype = "auto"', "must not be auto"),
        ('mount-point = "/a"\ndevice = "/b"\ntype = "none"\noptions = ["bind"]', "a bind mount"),
        ('mount-point = "/a"\ndevice = "sda1"\ntype = "ext4"', "'sda1' is not a device"),
        ('mount-point = "/a"\ndevice = "UUID="\ntype = "ext4"', "'UUID=' is not a device"),
        ('mount-point = "/a"\ndevice = "server"\ntype = "nfs4"', "does not name a server"),
        ('mount-point = "/a"\ndevice = "LABEL=x"\ntype = "ext4"\nneeded-for-boot = 1', "true or"),
        ('mount-point = "/%s"\ndevice = "LABEL=x"\ntype = "ext4"' % ("é" * 60), "too long for"),
        (('mount-point = "/a"\ndevice = "LABEL=x"\ntype = "btrfs"\n'
         'wipe = { wiper = "btrfs", old-roots = "old" }'), "needs its own subvolume"),
        (('mount-point = "/a"\ndevice = "LABEL=x"\ntype = "btrfs"\noptions = ["subvolid=5"]\n'
         'wipe = { wiper = "btrfs" }'), "is named by subvolid="),
        (('mount-point = "/a"\ndevice = "LABEL=x"\ntype = "btrfs"\noptions = ["subvol=home"]\n'
         'wipe = { wiper = "btrfs", old-roots = "home/old" }'), "old-roots (home/old) is inside"),
        (('mount-point = "/a"\ndevice = "LABEL=x"\ntype = "btrfs"\noptions = ["subvol=home"]\n'
         'wipe = { wiper = "btrsf" }'), "there is no wiper 'btrsf' (did you mean `btrfs`?)"),
        (('mount-point = "/a"\ndevice = "LABEL=x"\ntype = "btrfs"\noptions = ["subvol=home"]\n'
         'wipe = { old-roots = "old" }'), "`wiper` is missing"),
        (('mount-point = "/a"\ndevice = "LABEL=x"\ntype = "btrfs"\noptions = ["subvol=home"]\n'
         'wipe = { wiper = "btrfs", keep-day = 3 }'), "did you mean `keep-days`?"),
    ],
)  # fmt: skip
def test_refuses_bad_volumes(tree: MachineTree, text: str, complaint: str) -> None:
    tree.write(MAIN, volume(text))
    errors = [f"{error.reason} ({error.hint})" for error in tree.errors()]
    assert any(complaint in error for error in errors), errors


@pytest.mark.parametrize(
    ("device", "type_"),
    [
        ("/dev/mapper/vg-data", "xfs"),
        ("PARTUUID=1234-01", "ext4"),
        ("tmpfs", "tmpfs"),
        ("10.9.0.1:/export", "nfs4"),
        ("share", "virtiofs"),
        ("tank/data", "zfs"),
    ],
)
def test_accepts_good_devices(tree: MachineTree, device: str, type_: str) -> None:
    tree.write(MAIN, volume(f'mount-point = "/a"\ndevice = "{device}"\ntype = "{type_}"'))
    assert found(tree)["/a"].device == device


def test_warns_of_a_device_with_a_copy(tree: MachineTree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "DATABASE", str(tree.path / "udev"))
    (tree.path / "udev").mkdir()
    for number in ("b253:7", "b253:8"):
        (tree.path / "udev" / number).write_text("S:disk/by-label/data\nE:ID_FS_UUID=x\n")
    tree.write(MAIN, volume('mount-point = "/data"\ndevice = "LABEL=data"\ntype = "ext4"\n'))
    examination = tree.examination()
    assert not examination.errors
    warnings = [str(p) for p in examination.problems if p.warning]
    assert any("matches several: /dev/253:7, /dev/253:8" in warning for warning in warnings)


def test_warns_of_a_volume_that_is_never_mounted(tree: MachineTree) -> None:
    text = volume('mount-point = "/a"\ndevice = "LABEL=x"\ntype = "ext4"\nneeded-for-boot = false')
    tree.write(MAIN, text)
    (problem,) = tree.problems()
    assert problem.warning
    assert "/a is never mounted" in problem.reason


NAMES = st.sampled_from(["a", "b", "a-b", "a b", "é", "ab"])
POINTS = st.lists(NAMES, min_size=1, max_size=4).map(lambda names: "/" + "/".join(names))


@given(points=st.lists(POINTS, unique=True, max_size=8), split=st.integers(0, 8))
def test_mounts_parents_before_children(points: list[str], split: int) -> None:
    place = Place("file")
    entries = tuple(
        Volume(point, "LABEL=x", "ext4", (), 90, True, None, place) for point in points[:split]
    )
    lines = tuple(
        fstab.FstabLine("LABEL=x", point, "ext4", (fstab.INITRD,), number)
        for number, point in enumerate(points[split:])
    )
    problems: list[Problem] = []
    found = volumes.resolve(Configuration(volumes=entries), Machine(fstab=lines), problems)
    assert problems == []
    order = [volume.mount_point for volume in found]
    assert sorted(order) == sorted(points)
    for position, point in enumerate(order):
        assert not any(parent.startswith(f"{point}/") for parent in order[:position])
    assert len({volume.name for volume in found}) == len(points)


@given(points=st.lists(POINTS, unique=True, max_size=6), path=POINTS)
def test_the_nearest_volume_contains_a_path(points: list[str], path: str) -> None:
    mounted = [Volume(p, "LABEL=x", "ext4", (), 90, True, None, Place("file")) for p in points]
    covering = volumes.covering(path, mounted)
    above = [p for p in points if path == p or path.startswith(f"{p}/")]
    assert (covering.mount_point if covering else None) == max(above, key=len, default=None)


def test_finds_the_place_of_a_path_on_its_filesystem() -> None:
    def inside(point: str, options: tuple[str, ...], path: str) -> str:
        return Volume(point, "LABEL=x", "btrfs", options, 90, True, None, Place("f")).inside(path)

    assert inside("/data", ("subvol=/root/data",), "/data/store") == "root/data/store"
    assert inside("/data", ("subvolid=5",), "/data/store") == "store"
    assert inside("/data", ("subvol=/",), "/data") == ""
