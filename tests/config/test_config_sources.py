"""Main file and drop-ins: which files are used, in which order, and on which machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ephemeroot.config import Configuration, read
from ephemeroot.errors import Misconfigured
from machine_tree import DEVICE, MAIN, SOUND, MachineTree

VENDOR = "usr/lib/ephemeroot/conf.d"
LOCAL = "etc/ephemeroot/conf.d"


@pytest.fixture
def tree(tmp_path: Path) -> MachineTree:
    return MachineTree(tmp_path)


def configuration(tree: MachineTree) -> Configuration:
    config = read(tree.machine)
    assert not config.problems, [str(problem) for problem in config.problems]
    return config


def keep_days(tree: MachineTree) -> object:
    wiping = configuration(tree).wiping
    assert wiping is not None
    return wiping.settings["keep-days"]


def test_reads_the_main_file_alone(tree: MachineTree) -> None:
    assert configuration(tree).files == (tree.show(),)
    assert keep_days(tree) == 30


def test_drop_ins_are_applied_in_the_order_of_their_names(tree: MachineTree) -> None:
    tree.write(f"{LOCAL}/20-b.toml", "root.btrfs.keep-days = 20")
    tree.write(f"{VENDOR}/30-c.toml", "root.btrfs.keep-days = 31")
    tree.write(f"{VENDOR}/10-a.toml", "root.btrfs.keep-days = 10")
    assert keep_days(tree) == 31
    assert configuration(tree).files == (
        tree.show(),
        tree.show(f"{VENDOR}/10-a.toml"),
        tree.show(f"{LOCAL}/20-b.toml"),
        tree.show(f"{VENDOR}/30-c.toml"),
    )


def test_etc_replaces_the_vendors_file_of_the_same_name(tree: MachineTree) -> None:
    tree.write(f"{VENDOR}/10-a.toml", "root.btrfs.keep-days = 10\nroot.btrfs.keep-last = 1")
    tree.write(f"{LOCAL}/10-a.toml", "root.btrfs.keep-days = 11")
    wiping = configuration(tree).wiping
    assert wiping is not None
    assert wiping.settings["keep-days"] == 11
    assert wiping.settings["keep-last"] == 3


@pytest.mark.parametrize("mask", ["empty", "link"])
def test_an_empty_file_or_a_link_to_dev_null_masks_a_drop_in(tree: MachineTree, mask: str) -> None:
    tree.write(f"{VENDOR}/10-a.toml", "root.btrfs.keep-days = 10")
    masked = tree.path / LOCAL / "10-a.toml"
    masked.parent.mkdir()
    if mask == "empty":
        masked.touch()
    else:
        masked.symlink_to("/dev/null")
    assert keep_days(tree) == 30


def test_follows_links_as_the_machine_would(tree: MachineTree) -> None:
    tree.write("srv/site.toml", "root.btrfs.keep-days = 12")
    (tree.path / LOCAL).mkdir()
    (tree.path / LOCAL / "10-site.toml").symlink_to("/srv/site.toml")
    assert keep_days(tree) == 12


def test_reports_a_dangling_link(tree: MachineTree) -> None:
    (tree.path / LOCAL).mkdir()
    (tree.path / LOCAL / "10-site.toml").symlink_to("/srv/missing.toml")
    assert "link to a missing file" in tree.complaint()


def test_ignores_files_that_are_not_drop_ins(tree: MachineTree) -> None:
    for name in ("10-a.toml.dpkg-old", "README", ".10-hidden.toml"):
        tree.write(f"{LOCAL}/{name}", "no toml at all")
    assert configuration(tree).files == (tree.show(),)


def test_does_not_wait_for_a_fifo(tree: MachineTree) -> None:

    (tree.path / LOCAL).mkdir()
    os.mkfifo(tree.path / LOCAL / "10-a.toml")
    assert "not a regular file" in tree.complaint()


def test_joins_lists_and_keeps_the_place_of_each_item(tree: MachineTree) -> None:
    tree.write(f"{LOCAL}/10-a.toml", '\n[persistence."/persistent/"]\ndirectories = ["/srv"]\n')
    config = configuration(tree)
    (store,) = config.stores
    found = {entry.path: entry.origin.place for entry in store.entries}
    assert list(found) == ["/var/log", "/srv", "/etc/machine-id"]
    assert found["/var/log"].file == tree.show()
    place = found["/srv"]
    assert (place.file, place.line) == (tree.show(f"{LOCAL}/10-a.toml"), 3)
    assert place.key == 'persistence."/persistent/".directories[0]'


def test_a_drop_in_may_replace_the_wiper(tree: MachineTree) -> None:
    tree.write(MAIN, SOUND.replace('"btrfs"', '"nosuch"', 1))
    tree.write(f"{LOCAL}/10-a.toml", 'root.wiper = "btrfs"')
    assert not tree.errors()


def test_an_overridden_value_must_be_valid(tree: MachineTree) -> None:
    tree.write(MAIN, SOUND.replace("[root.btrfs]", '[root.btrfs]\nkeep-days = "soon"'))
    tree.write(f"{LOCAL}/10-a.toml", "root.btrfs.keep-days = 3")
    (error,) = tree.errors()
    assert (error.file, error.key) == (tree.show(), "root.btrfs.keep-days")


@pytest.mark.parametrize(
    ("match", "counts"),
    [
        ('host-name = "kiosk-*"', True),
        ('host-name = ["lab-*", "kiosk-?"]', True),
        ('host-name = "lab-*"', False),
        ('machine-id = "0123456789abcdef0123456789abcdef"', True),
        ('machine-id = "01234567-89AB-CDEF-0123-456789ABCDEF"', True),
        ('machine-id = "ffffffffffffffffffffffffffffffff"', False),
        ('host-name = "kiosk-7"\nmachine-id = "ffffffffffffffffffffffffffffffff"', False),
    ],
)
def test_matches_host_names_and_ids(tree: MachineTree, match: str, counts: bool) -> None:
    tree.write(f"{LOCAL}/10-a.toml", f"[match]\n{match}\n[root.btrfs]\nkeep-days = 5")
    assert keep_days(tree) == (5 if counts else 30)


def test_no_match_fits_a_machine_without_an_id(tree: MachineTree) -> None:
    tree.write("etc/machine-id", "uninitialized\n")
    for name in ("0123456789abcdef0123456789abcdef", "f" * 32):
        tree.write(f"{LOCAL}/10-a.toml", f'[match]\nmachine-id = "{name}"\n[no-such-key]')
        assert not tree.errors()


@pytest.mark.parametrize("match", ["", "host-name = 3", 'hostname = "x"'])
def test_an_empty_match_is_a_mistake_and_fits_no_machine(tree: MachineTree, match: str) -> None:
    tree.write(f"{LOCAL}/10-a.toml", f"[match]\n{match}\n[root.btrfs]\nkeep-days = 5")
    errors = tree.errors()
    assert errors
    assert {error.key.partition(".")[0] for error in errors} == {"match"}
    wiping = read(tree.machine).wiping
    assert wiping is not None
    assert wiping.settings["keep-days"] == 30


def test_match_is_allowed_in_drop_ins_only(tree: MachineTree) -> None:
    tree.write(MAIN, SOUND + '[match]\nhost-name = "lab-*"\n')
    assert "only for drop-ins" in tree.complaint()


def test_without_a_main_file_there_is_no_configuration(tree: MachineTree) -> None:
    (tree.path / MAIN).unlink()
    tree.write(f"{VENDOR}/10-a.toml", SOUND)
    with pytest.raises(Misconfigured, match="cannot read the configuration"):
        read(tree.machine)


def test_a_given_file_is_the_only_one_read(tree: MachineTree, tmp_path: Path) -> None:
    tree.write(f"{LOCAL}/10-a.toml", "no toml")
    other = tmp_path / "other.toml"
    other.write_text(SOUND.replace("[root.btrfs]", "[root.btrfs]\nkeep-days = 7"))
    config = read(tree.machine, str(other))
    assert config.files == (str(other),)
    assert not config.problems
    with pytest.raises(Misconfigured, match="does not exist"):
        read(tree.machine, str(tmp_path / "missing.toml"))


def test_a_syntax_error_does_not_hide_mistakes_elsewhere(tree: MachineTree) -> None:
    tree.write(f"{LOCAL}/10-a.toml", "[root.btrfs]\nkeep-days = = 3\n")
    tree.write(f"{LOCAL}/20-b.toml", 'root.btrfs.keep-last = "three"\n')
    tree.write(f"{LOCAL}/30-c.toml", "").write_bytes(b"a = 1\nb = '\xff'\n")
    tree.write(f"{LOCAL}/40-d.toml", "\n\n[unfinished")
    found = {(Path(e.file).name, e.line): e.reason for e in tree.errors()}
    assert set(found) == {
        ("10-a.toml", 2), ("20-b.toml", 1), ("30-c.toml", 2), ("40-d.toml", 3)
    }  # fmt: skip
    assert found["10-a.toml", 2] == "the file is not valid TOML: Invalid value"
    assert found["30-c.toml", 2] == "the file is not UTF-8 text"


def test_an_unreadable_path_is_not_reported_as_missing(tree: MachineTree) -> None:
    """The volume and the wiper may be declared in the file with the syntax error."""
    tree.write(MAIN, '[root\nwiper = "btrfs"\n')
    tree.write(f"{LOCAL}/10-a.toml", '[persistence."/persistent"]\nfiles = ["/etc/machine-id"]')
    (error,) = tree.errors()
    assert error.reason.startswith("the file is not valid TOML")


def test_repeating_a_declaration_in_another_file_changes_nothing(tree: MachineTree) -> None:
    tree.write(f"{LOCAL}/10-a.toml", '[persistence."/persistent"]\ndirectories = ["/var//log/"]')
    (problem,) = tree.problems()
    assert problem.warning
    assert problem.reason == "/var/log is declared twice, with the same values"
    assert f"({tree.show()}:" in problem.hint
    assert problem.file == tree.show(f"{LOCAL}/10-a.toml")


def test_joins_the_volumes_of_all_files(tree: MachineTree) -> None:
    tree.write(
        f"{LOCAL}/10-a.toml",
        f'[[volumes]]\nmount-point = "/srv"\ndevice = "{DEVICE}"\ntype = "btrfs"\n'
        'options = ["subvol=srv"]\n',
    )
    assert [v.mount_point for v in configuration(tree).volumes] == ["/persistent", "/srv"]
