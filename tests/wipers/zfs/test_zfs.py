"""The parts of the ZFS wiper that need no ZFS: configuration, plan, image, names, refusals.

vm-tests/test_zfs.py tests its effect on real pools in virtual machines.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ephemeroot
from ephemeroot.config.syntax import kinds
from ephemeroot.config.syntax.problem import Mistake
from ephemeroot.errors import EphemerootError, Refused, StoreMissing
from ephemeroot.hooks.operations.volumes import MountVolume
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.plan import Plan
from ephemeroot.image import assembly
from ephemeroot.image.generators.dracut.target import DracutTarget
from ephemeroot.image.generators.mkinitcpio.target import MkinitcpioTarget
from ephemeroot.linux import mountinfo, programs, shell
from ephemeroot.wipers.contract import Boot
from ephemeroot.wipers.zfs import Zfs, channel, datasets, rollback
from machine_tree import MAIN, MachineTree

DEFAULTS: dict[str, object] = {option.name: option.default for option in Zfs.OPTIONS}
ROTATE = DEFAULTS | {"mode": "rotate", "base": "tank/ROOT/base"}
WITHOUT_ZFS = pytest.mark.skipif(os.path.exists(channel.DEVICE), reason="this machine has ZFS")

SOUND = """\
[root]
wiper = "zfs"
external-boot = true
[root.zfs]
dataset = "tank/ROOT/debian"
[[volumes]]
mount-point = "/persistent"
device = "tank/persistent"
type = "zfs"
[persistence."/persistent"]
directories = ["/var/log"]
files = ["/etc/machine-id"]
"""
ROTATED = SOUND.replace("[[vol", 'mode = "rotate"\nbase = "tank/ROOT/base"\n[[vol')


@pytest.fixture
def tree(tmp_path: Path) -> MachineTree:
    machine = MachineTree(tmp_path, SOUND)
    machine.write("etc/fstab", "")
    return machine


# Configuration


@pytest.mark.parametrize("text", [SOUND, ROTATED])
def test_accepts_a_valid_configuration(tree: MachineTree, text: str) -> None:
    tree.write(MAIN, text)
    assert tree.problems() == []
    wipe = next(o for o in tree.plan().wipe if isinstance(o, Wipe))
    assert wipe.settings["dataset"] == "tank/ROOT/debian"
    assert wipe.settings["snapshot"] == "blank"
    assert wipe.device is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('mode = "sideways"', '\'sideways\' is unknown (write "rollback" or "rotate")'),
        ('mode = "rotate"', "must be named to rotate"),
        ('base = "tank/ROOT/base"', "has no effect on a rollback"),
        ('min-free = "10%"', "has no effect on a rollback"),
        ('snapshot = "tank/ROOT/debian@blank"', "is not the name of a snapshot"),
        ('mode = "rotate"\nbase = "tank/ROOT/debian/base"', "is in the root (tank/ROOT/debian)"),
        ('mode = "rotate"\nbase = "tank"', "is in the base (tank)"),
        ('mode = "rotate"\nbase = "other/base"', "are in different pools"),
        (
            'mode = "rotate"\nbase = "tank/old/base"\nold-roots = "tank/old"',
            "the base (tank/old/base) is in old-roots (tank/old)",
        ),
        ('mode = "rotate"\nbase = "tank/base@blank"', "is a snapshot or a bookmark"),
        ('mode = "rotate"\nbase = "/tank/base"', "is not a dataset"),
    ],
)
def test_reports_a_mistake_in_the_table(tree: MachineTree, line: str, said: str) -> None:
    tree.write(MAIN, SOUND.replace("[root.zfs]", f"[root.zfs]\n{line}"))
    assert said in tree.complaint()


def test_refuses_to_rotate_a_root_that_is_a_pool(tree: MachineTree) -> None:
    tree.write(MAIN, ROTATED.replace('"tank/ROOT/debian"', '"tank"'))
    assert any("the root tank is a pool" in problem.reason for problem in tree.errors())
    tree.write(MAIN, SOUND.replace('"tank/ROOT/debian"', '"tank"'))
    assert tree.errors() == []


@pytest.mark.parametrize(
    ("text", "device", "refused"),
    [
        (SOUND, "tank/ROOT/debian", "tank/ROOT/debian is the dataset that is made fresh"),
        (SOUND, "tank/ROOT/debian/store", ""),
        (ROTATED, "tank/ROOT/debian/store", "is in the root (tank/ROOT/debian)"),
        (ROTATED, "tank/ROOT/debian-2/store", ""),
        (
            ROTATED.replace("base =", 'old-roots = "tank/old"\nbase ='),
            "tank/old/store",
            "is in old-roots (tank/old)",
        ),
    ],
)
def test_refuses_a_store_that_would_be_wiped_with_the_root(
    tree: MachineTree, text: str, device: str, refused: str
) -> None:
    tree.write(MAIN, text.replace('"tank/persistent"', f'"{device}"'))
    if refused:
        assert refused in tree.complaint()
    else:
        assert tree.errors() == []


def test_finds_a_root_that_only_the_command_line_names(tree: MachineTree) -> None:
    tree.write(MAIN, SOUND.replace('dataset = "tank/ROOT/debian"\n', ""))
    tree.write("etc/kernel/cmdline", "root=zfs:tank/persistent ro\n")
    assert "tank/persistent is the dataset that is made fresh" in tree.complaint()


def test_a_volume_is_rolled_back_by_its_own_name(tree: MachineTree) -> None:
    home = '[[volumes]]\nmount-point = "/home"\ndevice = "tank/home"\ntype = "zfs"\n'
    tree.write(MAIN, f'{SOUND}{home}wipe = {{ wiper = "zfs" }}\n')
    assert tree.errors() == []
    wipe = [o for o in tree.plan().wipe if isinstance(o, Wipe)][1]
    assert (wipe.target, wipe.device, wipe.settings["dataset"]) == ("/home", None, "tank/home")


def test_validates_names_of_datasets() -> None:
    kind = kinds.Dataset()
    for name in ("tank", "tank/ROOT/the root", "tank/a:b_c.d-e", "tank/" + "x" * 250):
        assert kind.parse(name) == name
    for name in ("1tank", "tank/", "tank//x", "/tank", "tank/ä", "tank/../x", "tank/" + "x" * 251):
        with pytest.raises(Mistake):
            kind.parse(name)


def test_refuses_names_without_room_for_the_names_of_old_roots(tree: MachineTree) -> None:
    longest = "tank/" + "x" * (255 - 80 - 5)
    tree.write(MAIN, ROTATED.replace("mode =", f'old-roots = "{longest}"\nmode ='))
    assert tree.errors() == []
    tree.write(MAIN, ROTATED.replace("mode =", f'old-roots = "{longest}x"\nmode ='))
    assert "is too long for the names of old roots in it" in tree.complaint()
    named = f"{longest}/2026-11-23T02-15-00Z.99.unsynced.unused.keep"
    assert len(f"{named}@ephemeroot-2026-11-23T02-15-00Z.99") == 255
    tree.write(MAIN, ROTATED.replace("tank/ROOT/debian", "tank/" + "x" * 250))
    assert any("too long for a rotation" in problem.reason for problem in tree.errors())


@settings(max_examples=20)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30))
def test_an_inserted_name_is_one_word_to_a_shell(word: str) -> None:
    """The tag of a hold is any text, and a user with the permission `hold` chooses it."""
    done = subprocess.run(
        ["sh", "-c", f"printf %s {shell.quoted(word)}"], capture_output=True, check=True
    )
    assert done.stdout.decode() == word


# The kernel command line


@pytest.mark.parametrize(
    ("root", "dataset"),
    [
        ("zfs:tank/ROOT/debian", "tank/ROOT/debian"),
        ("ZFS=tank/ROOT/debian", "tank/ROOT/debian"),
        ("zfs:ZFS=tank/ROOT/debian", "tank/ROOT/debian"),
        ("tank/ROOT/debian", "tank/ROOT/debian"),
        ("zfs:tank/the+root", "tank/the root"),
        ("zfs:tank", "tank"),
        ("zfs:AUTO", datasets.AUTO),
        ("zfs", datasets.AUTO),
        ("zfs:", datasets.AUTO),
        ("", datasets.AUTO),
        (None, datasets.AUTO),
        ("/dev/sda1", ""),
        ("UUID=3c2a1b0e-0000-4000-8000-000000000001", ""),
        ("tmpfs", ""),
    ],
)
def test_finds_the_dataset_that_root_names(root: str | None, dataset: str) -> None:
    assert datasets.of_root(root) == dataset


def test_refuses_a_root_that_does_not_fit() -> None:
    named = DEFAULTS | {"dataset": "tank/ROOT/debian"}
    assert Zfs.mismatch(named, "zfs:tank/ROOT/debian") == ""
    assert Zfs.mismatch(DEFAULTS, "zfs:tank/ROOT/debian") == ""
    assert "tank/ROOT/debian" in Zfs.mismatch(named, "zfs:tank/ROOT/other")
    assert "root=zfs:DATASET" in Zfs.mismatch(named, "/dev/sda1")
    for auto in ("zfs:AUTO", "", None):
        assert Zfs.mismatch(named, auto) == ""
        assert "set dataset" in Zfs.mismatch(DEFAULTS, auto)
        assert "by its name" in Zfs.mismatch(ROTATE | {"dataset": "tank/ROOT/debian"}, auto)


# Without ZFS


def test_describing_and_checking_need_no_library() -> None:
    """In a process that cannot load the library, nor any module beyond the boot code's budget."""
    program = """
import sys
for name in ("libzfs_core", "cffi", "typing", "subprocess"):
    sys.modules[name] = None
sys.path.insert(0, sys.argv[1])
from ephemeroot.wipers.zfs import Zfs
for mode in ("rollback", "rotate"):
    settings = {"mode": mode, "base": "tank/base" if mode == "rotate" else None}
    wiper = Zfs(settings)
    assert Zfs.validate(wiper.settings) == []
    assert Zfs.needs(wiper.settings).kernel_modules == ("zfs",)
    print(wiper.describe("/", None, None))
"""
    folder = str(Path(ephemeroot.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", program, folder],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    back, onward = done.stdout.splitlines()
    assert back == "roll / back: the dataset of root= becomes its snapshot @blank again"
    assert onward == (
        "rotate /: the dataset of root= becomes a clone of tank/base@blank, the previous one goes "
        "to old-roots beside it for 30 days, the last 3 are kept"
    )


@WITHOUT_ZFS
@pytest.mark.parametrize("settings", [DEFAULTS, ROTATE])
def test_reports_a_missing_kernel_module_of_zfs(
    settings: dict[str, object], tmp_path: Path
) -> None:
    boot = Boot(
        device="", subvolume=None, target="/", private=str(tmp_path), boot_id="boot", now=0.0,
        synchronised=False, prove=lambda path: None, log=lambda line: None,
        root="zfs:tank/ROOT/debian",
    )  # fmt: skip
    with pytest.raises(Refused, match="is the kernel module zfs loaded"):
        Zfs(settings).wipe(boot)


@WITHOUT_ZFS
def test_reports_a_store_on_zfs_that_cannot_be_mounted(tmp_path: Path) -> None:
    plan = Plan(
        wipe=[MountVolume(mount_point="/p", name="p", device="tank/p", type="zfs")], persist=[]
    )
    (tmp_path / "plan.json").write_bytes(plan.dump())
    done = subprocess.run(
        [
            sys.executable, "-P", "-m", "ephemeroot.hooks", "wipe", "--plan",
            tmp_path / "plan.json", "--target", tmp_path, "--run", tmp_path / "run", "--verbose",
            "--cmdline", "root=zfs:tank/ROOT/debian",
        ],
        capture_output=True,
        text=True,
    )  # fmt: skip
    report = json.loads((tmp_path / "run/boot.json").read_bytes())
    said = " ".join(problem["problem"] for problem in report["wipe"]["problems"])
    assert "cannot mount tank/p (zfs) for /p" in said, (done.stderr, report)


def test_refuses_a_dataset_that_another_program_mounted() -> None:
    line = "36 35 0:40 / /run/p rw - zfs tank/the\\040other rw"
    volume = MountVolume(mount_point="/p", name="p", device="tank/p", type="zfs")
    with pytest.raises(StoreMissing, match="is the dataset tank/the other, but tank/p"):
        volume._require_same(mountinfo.Mount(line))


def test_refuses_an_init_that_imports_the_pool_with_the_root(tmp_path: Path) -> None:
    wipe = Wipe(
        target="/", wiper="zfs", attribute="ephemeroot.wipers.zfs:Zfs", settings=dict(DEFAULTS)
    )
    raw = Plan(wipe=[wipe], persist=[]).dump()
    for target in (DracutTarget("dracut"), MkinitcpioTarget(("base", "udev", "ephemeroot"))):
        made = assembly.put_together(tmp_path / target.init, raw, target)
        assert not made.armed
        assert made.reason is not None
        assert "a pool is imported only when the root is mounted" in made.reason


# Helper functions


def test_a_lua_array_is_read_in_order() -> None:
    assert channel.listed({"2": "b", "10": "j", "1": "a"}) == ["a", "b", "j"]
    assert channel.listed(None) == []


def test_names_contain_each_other_by_whole_components() -> None:
    assert datasets.is_below("tank/a/b", "tank/a")
    assert datasets.is_below("tank/a", "tank/a")
    assert not datasets.is_below("tank/ab", "tank/a")
    assert datasets.pool("tank/a@b") == datasets.pool("tank@b") == "tank"


def test_reports_the_kernels_error_for_a_root_that_is_not_a_dataset() -> None:
    with pytest.raises(Refused, match=r"the dataset tank/x does not exist.*zfs list -r tank"):
        rollback.require_root(None, "tank/x")
    with pytest.raises(Refused, match="tank/x is a volume, not a filesystem"):
        rollback.require_root(datasets.Dataset("tank/x", {"type": "volume"}), "tank/x")
    locked = {"type": "filesystem", "keystatus": "unavailable", "encryptionroot": "tank"}
    with pytest.raises(Refused, match="'zfs load-key tank' loads it"):
        rollback.require_root(datasets.Dataset("tank/x", locked), "tank/x")


def test_ignores_an_inherited_or_invalid_mark() -> None:
    assert datasets.Dataset("tank/x", {"own": {datasets.STATE: "new"}}).state == "new"
    assert datasets.Dataset("tank/x", {"own": {}}).state == ""
    assert datasets.Dataset("tank/x", {"own": {datasets.STATE: "old"}}).state == ""


def test_runs_a_program_and_reads_its_output() -> None:
    assert programs.run("sh", "-c", "echo out; echo err >&2") == "out\n"
    with pytest.raises(EphemerootError, match=r"^the last line$"):
        programs.run("sh", "-c", "echo first >&2; echo the last line >&2; exit 3")
    with pytest.raises(EphemerootError, match="sh ended with exit status 4"):
        programs.run("sh", "-c", "exit 4")
    with pytest.raises(EphemerootError, match="the program no-such-program is not installed"):
        programs.run("no-such-program")
    # More than the buffer of a pipe.
    assert len(programs.run("sh", "-c", "head -c 300000 /dev/zero | tr '\\0' x")) == 300000


@pytest.mark.parametrize("word", ["bootfs.snapshot", "bootfs.rollback=yesterday"])
def test_keeps_a_root_that_another_program_rolls_back(tmp_path: Path, word: str) -> None:
    """OpenZFS's dracut module has these words (zfs-rollback-bootfs.service)."""
    wipe = Wipe(
        target="/", wiper="zfs", attribute="ephemeroot.wipers.zfs:Zfs", settings=dict(DEFAULTS)
    )
    (tmp_path / "plan.json").write_bytes(Plan(wipe=[wipe], persist=[]).dump())
    done = subprocess.run(
        [
            sys.executable, "-P", "-m", "ephemeroot.hooks", "wipe", "--plan",
            tmp_path / "plan.json", "--target", tmp_path, "--run", tmp_path / "run", "--verbose",
            "--cmdline", f"root=zfs:tank/ROOT/debian {word}",
        ],
        capture_output=True,
        text=True,
    )  # fmt: skip
    report = json.loads((tmp_path / "run/boot.json").read_bytes())["wipe"]
    assert done.returncode == 0, done.stderr
    assert report["problems"] == [], report
    kept = f"root kept: {word.partition('=')[0]} on the kernel command line"
    assert report["result"] == kept, report
