"""All mistakes are reported in one run, each with its file, key, reason and hint."""

from __future__ import annotations

from pathlib import Path

import pytest

from ephemeroot.config import InvalidConfiguration, read
from ephemeroot.plan.compile import compile_plan
from machine_tree import MAIN, SOUND, STORE, MachineTree

TEN = """\
[root]
wiper = "btrfs"

[root.btrfs]
base = "root-base"
keep-days = "thirty"
oldroots = "old_roots"

[on-failure]
wipe = "halt"

[[volumes]]
mount-point = "/persistent"
device = "UUID=3c2a1b0e-0000-4000-8000-000000000001"
type = "btrfs"
options = "subvol=persistent,noatime"

[persistence."/persistent"]
hide-mount = true
directories = [
  "var/log",
  { directory = "/var/lib/colord", user = "colourd", mode = "u=rwx,g=rx,o=" },
  { directory = "/srv", mode = 700 },
]
files = [
  "/etc/machine-id",
  "/etc/keys",
  "/etc/keys/secret",
]

[persistence."/persistent".users.talyz]
directories = ["Downloads", { directory = ".ssh", required = true }]
"""

PERSISTENT = 'persistence."/persistent"'


@pytest.fixture
def tree(tmp_path: Path) -> MachineTree:
    return MachineTree(tmp_path)


def test_reports_ten_mistakes_as_ten_problems(tree: MachineTree) -> None:
    tree.write(MAIN, TEN)
    errors = tree.errors()
    assert {(error.line, error.key, error.reason, error.hint) for error in errors} == {
        (6, "root.btrfs.keep-days", "the value must be a whole number, not a string", ""),
        (7, "root.btrfs.oldroots", "unknown key `oldroots`", "did you mean `old-roots`?"),
        (10, "on-failure.wipe", ("'halt' is unknown: the value must be \"keep\" or "
         '"emergency" or "reboot" or "poweroff"'), ""),
        (16, "volumes[0].options", "the value must be a list, not a string",
         'write ["subvol=persistent", "noatime"]'),
        (19, f"{PERSISTENT}.hide-mount", "unknown key `hide-mount`",
         "did you mean `hide-mounts`?"),
        (21, f"{PERSISTENT}.directories[0]", "'var/log' is not an absolute path",
         "write '/var/log', or declare it below users.NAME if it is in a home"),
        (22, f"{PERSISTENT}.directories[1].user", "unknown user `colourd`",
         "did you mean `colord`?"),
        (23, f"{PERSISTENT}.directories[2].mode", "700 is a number, but a mode is a string",
         'write it as a string: "0700" or "1274" (if 0o1274 was meant)'),
        (28, f"{PERSISTENT}.files[2]", "/etc/keys/secret is below the file /etc/keys",
         f'declare /etc/keys as a directory ({tree.show()}:27: {PERSISTENT}.files[1])'),
        (32, f"{PERSISTENT}.users.talyz.directories[1].required",
         "an entry of a user cannot be required: the user could prevent the boot",
         "remove required"),
    }  # fmt: skip
    assert {error.file for error in errors} == {tree.show()}


def test_compiling_raises_all_mistakes(tree: MachineTree) -> None:
    tree.write(MAIN, TEN)
    with pytest.raises(InvalidConfiguration) as caught:
        compile_plan(read(tree.machine), tree.machine)
    assert [p for p in caught.value.problems if not p.warning] == tree.errors()
    assert caught.value.exit_code == 2
    assert caught.value.message == "the configuration has 10 errors"


def test_a_valid_configuration_has_no_problems(tree: MachineTree) -> None:
    assert tree.problems() == []


def test_problems_are_sorted_by_line(tree: MachineTree) -> None:
    tree.write(MAIN, TEN)
    lines = [error.line or 0 for error in tree.errors()]
    assert lines == sorted(lines)


@pytest.mark.parametrize(
    ("text", "key", "complaint"),
    [
        ("persistance = 1\n" + SOUND, "persistance", "did you mean `persistence`?"),
        (SOUND.replace("[[volumes]]", "[volumes]"), "volumes", "write [[volumes]]"),
        (SOUND.replace('wiper = "btrfs"', ""), "root", "`wiper` is missing"),
        (SOUND.replace("[root]\nwiper", "[roots]\nwiper").replace("[root.", "[roots."), "roots",
         "did you mean `root`?"),
        ("volumes = 3\n" + SOUND.replace("[[volumes]]", "[[other]]"), "volumes",
         "must be a list, not a number"),
        (SOUND.replace('["/var/log"]', '"/var/log"'), "directories", "must be a list"),
        (SOUND.replace('["/var/log"]', '[["/var/log"]]'), "directories[0]", "must be"),
        (SOUND.replace('["/var/log"]', "[3]"), "directories[0]", "must be an absolute path"),
        (SOUND.replace('["/var/log"]', '[{ dir = "/var/log" }]'), "directories[0].dir",
         "did you mean `directory`?"),
        (SOUND.replace('["/var/log"]', '[{ mode = "0700" }]'), "directories[0]",
         "`directory` is missing"),
        (SOUND + '[persistence."srv"]\n', "persistence.srv", "not an absolute path"),
        (SOUND + "[persistence]\nusers = 3\n", "persistence.users", "not an absolute path"),
        ("root = 3\n", "root", "must be a table"),
        (SOUND.replace("base =", "base = 3 #"), "root.btrfs.base", "must be a path"),
        (SOUND.replace("[root.btrfs]", "[root.btrfs]\nwiper = 1"), "root.btrfs.wiper", "unknown"),
        (SOUND + "\n[persistence.'/persistent'.users.nobody-here]\n", "users.nobody-here",
         "unknown user `nobody-here`"),
        (SOUND.replace('"/etc/machine-id"', '{ file = "/etc/machine-id", method = "bind" }'),
         "files[0].method", "always copied"),
        (SOUND.replace('"/etc/machine-id"', '{ file = "/etc/x", first-boot = true }'),
         "files[0].first-boot", "is only for /etc/machine-id"),
        (SOUND.replace('"/var/log"', '"/etc/machine-id"').replace("files", "#"),
         "directories[0]", "/etc/machine-id is declared as a directory"),
        (SOUND.replace('"/var/log"', '{ directory = "/srv", store = "/persistant" }'),
         "directories[0].store", "/persistant is not a declared store"),
        (SOUND.replace('"/var/log"', '{ directory = "/srv", group = "user" }'),
         "directories[0].group", "did you mean `users`?"),
        (SOUND.replace('"/var/log"', '{ directory = "/srv", parent-directory = { user = "x" } }'),
         "directories[0].parent-directory.user", "unknown user `x`"),
    ],
)  # fmt: skip
def test_reports_each_mistake(tree: MachineTree, text: str, key: str, complaint: str) -> None:
    tree.write(MAIN, text)
    errors = tree.errors()
    assert any(
        error.key.endswith(key) and complaint in f"{error.reason} ({error.hint})"
        for error in errors
    ), [str(error) for error in errors]


def test_a_mistake_has_no_follow_up_errors(tree: MachineTree) -> None:
    """A volume with a wrong device is still the volume of its store."""
    tree.write(MAIN, SOUND.replace('type = "btrfs"', "type = 3"))
    assert [error.key for error in tree.errors()] == ["volumes[0].type"]


def test_reports_a_home_that_is_not_in_passwd(tree: MachineTree) -> None:
    tree.write("etc/passwd", "root:x:0:0::/root:/bin/sh\nlea:x:1000:1000::/:/bin/sh\n")
    users = '[persistence."/persistent".users.lea]\nfiles = ["x"]\n'
    tree.write(MAIN, SOUND + users)
    assert "cannot use the home of lea: it is /" in tree.complaint()
    tree.write(MAIN, SOUND + users + 'home = "/var/home/lea"\n')
    assert tree.errors() == []


def test_reports_paths_that_are_too_long_in_the_store(tree: MachineTree) -> None:
    tree.write(MAIN, SOUND.replace("/var/log", "/" + "/".join(["n" * 200] * 20 + ["m" * 70])))
    assert "cannot store it in /persistent: the path is longer than 4095 bytes" in tree.complaint()


def test_ignores_disabled_stores(tree: MachineTree) -> None:
    other = '[persistence."/elsewhere"]\nenable = false\ndirectories = ["/var/log", "/srv"]\n'
    tree.write(MAIN, SOUND + other)
    assert tree.errors() == []
    entry = 'directories = [{ directory = "/srv", store = "/elsewhere" }]'
    tree.write(MAIN, SOUND.replace('directories = ["/var/log"]', entry) + other)
    assert "the store /elsewhere is not enabled" in tree.complaint()
    assert STORE in SOUND
