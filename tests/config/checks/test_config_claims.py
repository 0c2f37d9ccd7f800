"""Declarations that contradict each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from ephemeroot.hooks.operations.copies import Copy
from machine_tree import DEVICE, FSTAB, MAIN, ROOT, VOLUME, MachineTree

NESTED = '[persistence."/persistent/nested"]\n'
HOME_LINE = f"{DEVICE} /home btrfs subvol=home 0 0\n"


@pytest.fixture
def tree(tmp_path: Path) -> MachineTree:
    return MachineTree(tmp_path)


def declare(tree: MachineTree, directories: str = "", files: str = "", more: str = "") -> None:
    tree.write(MAIN, ROOT + VOLUME + '[persistence."/persistent"]\n'
               f'directories = ["/var/log", {directories}]\n'
               f'files = ["/etc/machine-id", {files}]\n{more}')  # fmt: skip


@pytest.mark.parametrize(
    ("directories", "files", "complaint"),
    [
        ('"/srv", "/srv/"', "", "/srv is declared twice"),
        ("", '"/etc/x", "/etc//x"', "/etc/x is declared twice"),
        ('"/srv/x"', '"/srv/x"', "/srv/x is declared as a file here and as a directory elsewhere"),
        ("", '"/etc/x", "/etc/x/y"', "/etc/x/y is below the file /etc/x"),
        ('"/etc/x/y/z"', '"/etc/x"', "/etc/x/y/z is below the file /etc/x"),
        ('{ directory = "/a", method = "symlink" }, "/a/b"', "", "which is a link into the store"),
        ('"/persistent/x"', "", "/persistent/x is inside the store /persistent"),
        ('"/persistent"', "", "/persistent is inside the store /persistent"),
        ('"/"', "", "/ cannot be a persistent path"),
        ('"/run/x"', "", "/run/x is below /run, where every boot mounts a new"),
        ("", '"/proc/sys"', "/proc/sys is below /proc"),
        ('{ directory = "/a/b", parent-directory = { mode = "0700" } }',
         '{ file = "/a/c", parent-directory = { mode = "0711" } }',
         "/a has other attributes in the parent-directory of another entry"),
        ('"/a", { directory = "/a/b", parent-directory = { mode = "0700" } }', "",
         "parent-directory has no effect, because /a is declared too"),
    ],
)  # fmt: skip
def test_refuses_conflicting_declarations(
    tree: MachineTree, directories: str, files: str, complaint: str
) -> None:
    declare(tree, directories, files)
    assert complaint in tree.complaint()


@pytest.mark.parametrize(
    ("directories", "files"),
    [
        ('"/home", "/home/x/y"', ""),
        ('"/var/lib", "/var/lib/private/z"', '"/var/lib/x/y"'),
        ('"/srv", "/srv2", "/sr"', '"/srv3"'),
        ('"/with blank", "/zoë", "/new\\nline", "/*"', ""),
        ('{ directory = "/a/b", parent-directory = { mode = "0700" } }',
         '{ file = "/a/c", parent-directory = { mode = "u=rwx,go=" } }'),
    ],
)  # fmt: skip
def test_accepts_declarations_that_do_not_conflict(
    tree: MachineTree, directories: str, files: str
) -> None:
    declare(tree, directories, files)
    assert tree.errors() == []


def test_refuses_a_users_path_that_collides_with_a_system_path(tree: MachineTree) -> None:
    users = '[persistence."/persistent".users.talyz]\nfiles = ["x/y"]\n'
    declare(tree, '"/home/talyz/x/y"', more=users)
    assert "/home/talyz/x/y is declared as a file here and as a directory" in tree.complaint()


def test_refuses_one_path_in_two_stores(tree: MachineTree) -> None:
    tree.mark("persistent/nested")
    declare(tree, '"/srv"', more=NESTED + 'directories = ["/srv"]\n')
    assert "/srv is declared twice" in tree.complaint()


def test_refuses_two_paths_with_one_place_in_the_store(tree: MachineTree) -> None:
    tree.mark("persistent/nested")
    declare(
        tree, '{ directory = "/b", store = "/persistent/nested" }', '"/nested/b"', more=NESTED
    )  # fmt: skip
    assert "/nested/b would use /persistent/nested/b, which /b uses" in tree.complaint()


def test_refuses_a_directory_that_contains_a_store(tree: MachineTree) -> None:
    tree.mark("data/inner/store")
    tree.write(MAIN, ROOT + VOLUME.replace("/persistent", "/data") +
               '[persistence."/data/inner/store"]\ndirectories = ["/var/log", "/data/inner"]\n'
               'files = ["/etc/machine-id"]\n')  # fmt: skip
    assert "/data/inner contains the store /data/inner/store" in tree.complaint()


def test_refuses_a_directory_in_a_store_that_contains_a_nested_store(tree: MachineTree) -> None:
    tree.mark("persistent/nested")
    declare(tree, '"/nested"', more=NESTED)
    assert "/nested contains the store /persistent/nested" in tree.complaint()


def test_refuses_a_directory_that_is_or_hides_a_volume(tree: MachineTree) -> None:
    srv = VOLUME.replace('"/persistent"', '"/srv/data"').replace("subvol=persistent", "subvol=d")
    declare(tree, '"/srv/data"', more=srv)
    assert "/srv/data is the volume /srv/data" in tree.complaint()
    declare(tree, '"/srv"', more=srv)
    assert "/srv would hide the volume /srv/data" in tree.complaint()


def test_warns_of_declared_paths_on_a_persistent_volume(tree: MachineTree) -> None:
    srv = VOLUME.replace('"/persistent"', '"/srv"').replace("subvol=persistent", "subvol=srv")
    declare(tree, '"/srv/x"', more=srv)
    (problem,) = tree.problems()
    assert problem.warning
    assert "/srv/x is on the volume /srv, which is already persistent" in problem.reason


@pytest.mark.parametrize("path", ["/home", "/home/talyz/x"])
def test_refuses_a_path_that_fstab_mounts_over(tree: MachineTree, path: str) -> None:
    tree.write("etc/fstab", FSTAB + HOME_LINE)
    declare(tree, f'"{path}"')
    complaint = tree.complaint()
    assert f"{path} would be hidden: /home is mounted over it" in complaint
    assert "subvol=home,x-initrd.mount" in complaint


def test_refuses_a_line_of_fstab_that_binds_the_same_path(tree: MachineTree) -> None:
    tree.write("etc/fstab", FSTAB + "/persistent/srv /srv none bind 0 0\n")
    declare(tree, '"/srv"')
    assert "remove that line" in tree.complaint()


def test_accepts_a_mount_below_a_path_or_with_noauto(tree: MachineTree) -> None:
    tree.write("etc/fstab", FSTAB + HOME_LINE.replace("/home", "/srv/music") +
               HOME_LINE.replace("/home", "/mnt").replace("subvol=home", "noauto"))  # fmt: skip
    declare(tree, '"/srv", "/mnt/x"')
    assert tree.errors() == []


@pytest.mark.parametrize("method", ["bind", "overlay"])
def test_refuses_an_overlay_whose_store_is_visible_below_another_store(
    tree: MachineTree, method: str
) -> None:
    """The content of the upper directory of a mounted overlay may only be accessed through the
    overlay.
    """
    tree.mark("persistent/nested")
    declare(
        tree,
        f'{{ directory = "/a", method = "{method}" }}, "/a/b/c"',
        more=f'{NESTED}directories = ["/a/b"]\n',
    )
    if method == "overlay":
        assert "/a/b/c would be stored in the overlay /a, but is inside /a/b" in tree.complaint()
    else:
        assert tree.errors() == []


OVERLAY = '{ directory = "/opt/app", method = "overlay" }'
EMPTY = '{ directory = "/opt/app", method = "overlay", initial = "empty" }'
CONF = '{ file = "/opt/app/conf", initial = "empty" }'


@pytest.mark.parametrize(
    ("directories", "files", "reason"),
    [
        (EMPTY, "", "an overlay shows the base's content"),
        (OVERLAY, CONF, "it is part of the overlay /opt/app, which shows the base's file"),
    ],
    ids=["itself", "a file in it"],
)
def test_refuses_initial_empty_over_the_base(
    tree: MachineTree, directories: str, files: str, reason: str
) -> None:
    declare(tree, directories, files)
    (error,) = tree.errors()
    path = "/opt/app/conf" if files else "/opt/app"
    assert error.reason == f'{path} cannot have initial = "empty": {reason}'


DROP_IN = "etc/ephemeroot/conf.d/adopted.toml"
SAME = [
    # In the main file, in the drop-in, and which one can be removed.
    ("files", '"/etc/x"', '"/etc/x"', DROP_IN),
    ("files", '"/etc/x"', '{ file = "/etc/x", method = "copy" }', MAIN),
    ("files", '{ file = "/etc/x", method = "copy" }', '"/etc/x"', DROP_IN),
    ("files", '{ file = "/etc/x", method = "copy", mode = "0600" }',
     '{ file = "/etc/x", method = "copy" }', DROP_IN),
    ("directories", '"/srv"', '"/srv/"', DROP_IN),
    ("directories", '{ directory = "/srv", mode = "0755" }', '"/srv"', DROP_IN),
    ("directories", '{ directory = "/srv", hide-mounts = true }', '"/srv"', DROP_IN),
]  # fmt: skip
CONTRADICTIONS = [
    ("files", '{ file = "/etc/x", method = "symlink" }', '{ file = "/etc/x", method = "copy" }'),
    ("files", '{ file = "/etc/x", mode = "0644" }', '{ file = "/etc/x", mode = "0600" }'),
    ("files", '{ file = "/etc/x", mode = "0644" }', '{ file = "/etc/x", method = "copy" }'),
    ("directories", '{ directory = "/srv", user = "ada" }',
     '{ directory = "/srv", user = "root" }'),
    ("directories", '{ directory = "/srv", initial = "empty" }',
     '{ directory = "/srv", initial = "previous" }'),
]  # fmt: skip


def in_two_files(tree: MachineTree, key: str, main: str, drop_in: str) -> None:
    others = {"files": '"/etc/machine-id"', "directories": '"/var/log"'}
    tree.write(MAIN, ROOT + VOLUME + '[persistence."/persistent"]\n' + "".join(
        f"{k} = [{others[k]}{', ' + main if k == key else ''}]\n" for k in others))  # fmt: skip
    tree.write(DROP_IN, f'[persistence."/persistent"]\n{key} = [{drop_in}]\n')


@pytest.mark.parametrize(("key", "main", "drop_in", "spare"), SAME)
def test_the_same_declaration_in_two_files_is_one_declaration(
    tree: MachineTree, key: str, main: str, drop_in: str, spare: str
) -> None:
    in_two_files(tree, key, main, drop_in)
    (problem,) = tree.problems()
    assert problem.warning
    assert problem.file == tree.show(spare)
    other = MAIN if spare == DROP_IN else DROP_IN
    assert "is declared twice, with the same values" in problem.reason
    assert problem.hint.startswith(f"remove this entry or the other one ({tree.show(other)}:")
    path = "/etc/x" if key == "files" else "/srv"
    (operation,) = [o for o in tree.plan().persist if getattr(o, "path", "") == path]
    if "copy" in main + drop_in:
        assert isinstance(operation, Copy)


@pytest.mark.parametrize(("key", "main", "drop_in"), CONTRADICTIONS)
def test_contradicting_files_are_refused_with_both_places(
    tree: MachineTree, key: str, main: str, drop_in: str
) -> None:
    in_two_files(tree, key, main, drop_in)
    (error,) = tree.errors()
    assert "is declared twice" in error.reason
    assert error.file == tree.show(DROP_IN)
    assert f"the other one ({tree.show(MAIN)}:" in error.hint


def test_a_users_declaration_differs_from_the_systems(tree: MachineTree) -> None:
    """New directories have different owners."""
    declare(tree, '"/home/talyz/x"')
    tree.write(DROP_IN, '[persistence."/persistent".users.talyz]\ndirectories = ["x"]\n')
    assert "is declared twice" in tree.complaint()
