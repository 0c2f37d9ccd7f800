"""Every mistake in a file, and every misplaced file, is reported with its place and a hint."""

from __future__ import annotations

import codecs
import errno
import os
import string
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeroot import cli
from ephemeroot.config import misplaced, read, sources
from ephemeroot.config.syntax import kinds, settings, toml
from ephemeroot.config.syntax.match import HostNames, MachineIds
from ephemeroot.config.syntax.problem import Mistake, Mistakes, Problem
from ephemeroot.machine import files
from machine_tree import DEVICE, FSTAB, GROUP, MAIN, PASSWD, SOUND, MachineTree

LOCAL = "etc/ephemeroot/conf.d"
DROP_IN = f"{LOCAL}/10-a.toml"
NUMBERS = (-1, 10**9 + 1, 1 << 62, 1 << 63, -(1 << 63), 10**30, 10**5000)


@pytest.fixture
def tree(tmp_path: Path) -> MachineTree:
    return MachineTree(tmp_path)


def at(tree: MachineTree, name: str) -> list[Problem]:
    """The problems reported for the file *name*. Every error must have a hint."""
    found = [problem for problem in tree.problems() if problem.file == str(tree.path / name)]
    for problem in found:
        assert problem.hint or problem.warning or "must be" in problem.reason, problem
    return found


# Files that cannot be read or used


def _fifo(path: Path, content: bytes) -> None:
    os.mkfifo(path)


def _large(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.truncate(files.LARGEST + 1)


DAMAGES: dict[str, Callable[[Path, bytes], object]] = {
    "directory": lambda path, content: path.mkdir(),
    "fifo": _fifo,
    "loop": lambda path, content: path.symlink_to(path.name),
    "large": _large,
    "byte order mark": lambda path, content: path.write_bytes(codecs.BOM_UTF8 + content),
}
SELINUX = "etc/selinux/targeted/contexts/files/file_contexts"
FILES = {
    MAIN: SOUND,
    DROP_IN: "root.btrfs.keep-days = 3\n",
    "usr/lib/ephemeroot/conf.d/10-a.toml": "root.btrfs.keep-days = 3\n",
    "etc/fstab": FSTAB,
    "etc/passwd": PASSWD,
    "usr/lib/passwd": PASSWD,
    "etc/group": GROUP,
    "usr/lib/group": GROUP,
    "etc/hostname": "kiosk-7\n",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "etc/kernel/cmdline": f"root={DEVICE} rootflags=subvol=root\n",
    "etc/selinux/config": "SELINUX=enforcing\nSELINUXTYPE=targeted\n",
    SELINUX: "/.*  system_u:object_r:default_t:s0\n",
    "persistent/.ephemeroot-store": "{}",
}
"""Each file of a machine that the configuration is read from, with valid content."""


@pytest.mark.requires_root
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_check_reports_a_file_that_it_cannot_use(
    tree: MachineTree, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == SELINUX:
        tree.write("etc/selinux/config", FILES["etc/selinux/config"])
    path = tree.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    DAMAGES[damage](path, FILES[name].encode())
    assert cli.main(["check", "--root", str(tree.path)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert any(
        line.startswith("error: ") and str(path) in line and following.startswith("  hint: ")
        for line, following in pairwise(lines)
    ), lines
    if path.is_fifo():
        path.unlink()


@pytest.mark.requires_root
@pytest.mark.parametrize("name", FILES)
def test_check_reports_a_file_on_a_failing_disk(tree: MachineTree, name: str) -> None:
    """The first page of a process's memory is not mapped: reading it is an I/O error (proc(5))."""
    if name == SELINUX:
        tree.write("etc/selinux/config", FILES["etc/selinux/config"])
    path = tree.write(name, FILES[name])
    program = Path(sys.executable).with_name("ephemeroot")
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c",
         'mount --bind /proc/$$/mem "$1" && exec "$2" --root "$3" check', "sh",
         path, program, tree.path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert any(str(path) in line and "Input/output error" in line for line in lines), lines


@pytest.mark.parametrize("name", ["etc/fstab", MAIN, DROP_IN, "etc/passwd"])
def test_check_by_a_user_reports_files_that_only_root_can_read(
    tree: MachineTree, name: str
) -> None:
    path = tree.write(name, FILES[name])
    source = files.unreadable(str(path), PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    assert (source.error, source.hint) == ("Permission denied", "run the command as root")


@pytest.mark.parametrize("kind", ["file", "loop", "fifo"])
@pytest.mark.parametrize("directory", [place[1:] for place in sources.DROP_INS])
def test_reports_a_file_instead_of_the_drop_in_directory(
    tree: MachineTree, directory: str, kind: str
) -> None:
    path = tree.path / directory
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "file":
        path.write_text("root.btrfs.keep-days = 3\n")
    elif kind == "loop":
        path.symlink_to(path.name)
    else:
        os.mkfifo(path)
    (problem,) = at(tree, directory)
    assert problem.reason.startswith("cannot read the file: ")
    assert not problem.warning


STRAY = (
    "etc/ephemeroot/10-a.toml", f"{LOCAL}/10-a.conf", f"{LOCAL}/10-a", f"{LOCAL}/10-a.TOML",
    f"{LOCAL}/site/10-a.toml", "etc/ephemeroot/ephemeroot.toml.d/10-a.toml",
    "etc/ephemeroot/ephemeroot.d/10-a.toml", "usr/lib/ephemeroot/10-a.toml",
    "usr/lib/ephemeroot/ephemeroot.toml", "etc/ephemeroot.toml", "usr/lib/ephemeroot.toml",
    *(f"{place[1:]}/10-a.toml" for place in misplaced._ELSEWHERE),
)  # fmt: skip


@pytest.mark.parametrize("name", STRAY)
def test_reports_a_misplaced_drop_in(tree: MachineTree, name: str) -> None:
    tree.write(name, "root.btrfs.keep-days = 3\n")
    (problem,) = tree.problems()
    assert (problem.file, problem.reason) == (str(tree.path / name), "this file is not read")
    assert (
        "/etc/ephemeroot" in problem.hint
        or "must end in .toml" in problem.hint
        or ("/usr/lib/ephemeroot/conf.d" in problem.hint)
    )


@pytest.mark.parametrize("ending", misplaced._LEFT_OVER)
def test_ignores_backup_files(tree: MachineTree, ending: str) -> None:
    tree.write(f"{LOCAL}/10-a.toml{ending}", "not toml")
    tree.write(f"etc/ephemeroot/ephemeroot.toml{ending}", "not toml")
    assert not tree.problems()


def test_with_a_given_file_no_file_is_misplaced(tree: MachineTree) -> None:
    tree.write(STRAY[0], "")
    assert not read(tree.machine, str(tree.path / MAIN)).problems


@pytest.mark.parametrize("mark", [codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
def test_reports_a_byte_order_mark(mark: bytes) -> None:
    encoding = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le"}.get(mark, "utf-16-be")
    with pytest.raises(toml.SyntaxMistake, match="begins with a byte order mark") as raised:
        toml.parse(mark + SOUND.encode(encoding))
    assert raised.value.line == 1
    assert raised.value.hint


# Keys in the wrong table


def keys(table: settings.Table) -> Iterator[str]:
    for setting in table.settings:
        yield setting.name
        kind = setting.kind
        if isinstance(kind, settings.Table):
            yield from keys(kind)
        elif isinstance(kind, (settings.Named, settings.Listed)):
            yield from keys(kind.table)


WIPERS = {
    "btrfs": ("base", "old-roots", "keep-days", "keep-last", "device", "subvolume", "min-free"),
    "zfs": ("dataset", "snapshot", "base", "keep-days"),
    "tmpfs": ("size", "nr-inodes", "mode"),
    "overlay": ("volume", "type", "size"),
}


@pytest.mark.parametrize(
    ("wiper", "key"), [(wiper, key) for wiper, keys_ in WIPERS.items() for key in keys_]
)
@pytest.mark.parametrize("table", ["", "[root]\n", "[on-failure]\n"])
def test_the_hint_names_the_table_of_a_wipers_key(
    tree: MachineTree, wiper: str, key: str, table: str
) -> None:
    root = f'root.wiper = "{wiper}"\n' if table != "[root]\n" else ""
    wiper_line = f'wiper = "{wiper}"\n' if not root else ""
    tree.write(MAIN, f"{root}{table}{wiper_line}{key} = 1\n")
    (problem,) = [p for p in tree.errors() if p.reason == f"unknown key `{key}`"]
    assert f"[root.{wiper}]" in problem.hint
    assert problem.line == 2 + bool(table)


@pytest.mark.parametrize("key", sorted({*keys(settings.TOP)}))
def test_the_hint_names_the_table_of_any_misplaced_key(tree: MachineTree, key: str) -> None:
    """The key is placed in [network], which shares no key with another table."""
    if key in ("interface", "address", "gateway"):
        tree.write(MAIN, SOUND + f"[on-failure]\n{key} = 1\n")
    else:
        tree.write(MAIN, SOUND + f"[network]\n{key} = 1\n")
    (problem,) = [p for p in tree.errors() if p.reason == f"unknown key `{key}`"]
    assert f"`{key}` belongs in " in problem.hint or "did you mean" in problem.hint


# Tables without effect


@pytest.mark.parametrize(
    ("wiper", "other"), [(wiper, other) for wiper in WIPERS for other in WIPERS if wiper != other]
)
def test_a_table_of_another_wiper_has_no_effect(tree: MachineTree, wiper: str, other: str) -> None:
    tree.write(MAIN, f'[root]\nwiper = "{wiper}"\n[root.{other}]\n')
    found = [p for p in tree.problems() if p.reason.startswith("this table has no effect")]
    assert [(p.line, p.key, p.warning) for p in found] == [(3, f"root.{other}", True)]
    assert f'set wiper = "{other}"' in found[0].hint


def test_a_table_whose_wiper_a_drop_in_replaced_is_not_reported(tree: MachineTree) -> None:
    tree.write(DROP_IN, 'root.wiper = "overlay"\n')
    assert not [p for p in tree.problems() if "has no effect" in p.reason]


# The table match


_CHARACTERS = string.ascii_letters + string.digits + "-_."
_NAMES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9])?", fullmatch=True)


@given(_NAMES, st.data())
def test_accepts_a_pattern_that_fits_some_host_name(name: str, data: st.DataObject) -> None:
    """The pattern is made from a name: each character becomes a part of the pattern that matches
    it.
    """
    pattern = "".join(
        data.draw(st.sampled_from([c, "?", "*", f"[{c}]", f"[!{'/' if c != '/' else 'a'}]"]))
        for c in name
    )
    assert HostNames().parse(pattern) == [pattern]


@given(_NAMES, st.characters(exclude_characters=_CHARACTERS + "*?[]!\0"), st.integers(0, 20))
def test_refuses_a_pattern_that_fits_no_host_name(name: str, bad: str, place: int) -> None:
    lowered = bad.lower()
    if any(c in _CHARACTERS for c in lowered):
        return  # the Kelvin sign matches k
    for pattern in (name[:place] + bad + name[place:], f"{name}[{bad}]"):
        with pytest.raises(Mistake, match="matches no machine"):
            HostNames().parse(pattern)


NOBODY = (
    "host-name = []", "machine-id = []", 'host-name = "kiosk 7"', 'host-name = "["',
    'host-name = "-kiosk"', 'host-name = "kiosk."', 'host-name = "[/]"',
    f'host-name = "{"?" * 65}"', 'host-name = "//kiosk"', 'host-name = ["kiosk-7", "a b"]',
    'machine-id = "kiosk"', 'machine-id = "*"', f'machine-id = "{"0" * 32}"',
    f'machine-id = "{"a" * 31}"', f'machine-id = "{"g" * 32}"', 'machine-id = "uninitialized"',
)  # fmt: skip


@pytest.mark.parametrize("match", NOBODY)
def test_reports_a_match_that_fits_no_machine(tree: MachineTree, match: str) -> None:
    tree.write(DROP_IN, f"[match]\n{match}\n")
    (problem,) = at(tree, DROP_IN)
    assert problem.line == 2
    assert problem.key.startswith(f"match.{match.partition(' ')[0]}")


def test_ids_are_accepted_with_and_without_dashes() -> None:
    plain = "0123456789abcdef0123456789abcdef"
    for text in (plain, plain.upper(), "01234567-89ab-cdef-0123-456789abcdef"):
        assert MachineIds().parse(text) == [text]


# Values


@pytest.mark.parametrize("device", ["sda1", "nvme0n1p2", "UUID=", 'LABEL=""', "/", "/sda1",
                                    "/dev", "/dev/", "/dev/../etc/fstab", "disk/by-label/x",
                                    "uuid=x", "btrfs", "TYPE=btrfs"])  # fmt: skip
@pytest.mark.parametrize("where", ["root", "volume"])
def test_reports_a_device_value_that_is_not_a_device_name(
    tree: MachineTree, device: str, where: str
) -> None:
    line = f"device = '{device}'\n"
    if where == "root":
        tree.write(MAIN, SOUND.replace("[root.btrfs]\n", f"[root.btrfs]\n{line}"))
    else:
        tree.write(MAIN, SOUND.replace(f'device = "{DEVICE}"\n', line))
    assert [p.reason for p in at(tree, MAIN)] == [f"{device!r} is not a device"]


def test_the_hint_names_the_existing_device(tree: MachineTree) -> None:
    tree.write(MAIN, SOUND.replace("[root.btrfs]\n", '[root.btrfs]\ndevice = "null"\n'))
    (problem,) = tree.errors()
    assert problem.hint.startswith("write /dev/null")


@given(st.lists(st.sampled_from(["ro", "noexec", "size=3", "compress", "a,b", "x-y", "", "foo"]),
                max_size=8))  # fmt: skip
def test_reports_all_bad_options_of_a_bind_at_once(options: list[str]) -> None:
    bad = [n for n, o in enumerate(options) if o not in ("ro", "noexec", "x-y")]
    if not bad:
        assert kinds.BindOptions().parse(options) == options
        return
    with pytest.raises(Mistakes) as raised:
        kinds.BindOptions().parse(options)
    assert [position for position, _ in raised.value.found] == bad
    assert all(mistake.hint for _, mistake in raised.value.found)


@pytest.mark.parametrize(
    ("line", "bad"),
    [
        ('mount-options = ["foo", "ro", "size=1", "a,b"]', [0, 2, 3]),
        ('directories = [{ directory = "/srv", mount-options = ["foo", "ro", "bar"] }]', [0, 2]),
        ('users.talyz.mount-options = ["foo", 3, ""]', [0, 1, 2]),
    ],
)
def test_reports_each_bad_option_at_its_own_place(
    tree: MachineTree, line: str, bad: list[int]
) -> None:
    tree.write(MAIN, SOUND.replace('directories = ["/var/log"]', line))
    keys_ = [p.key for p in at(tree, MAIN) if "mount-options" in p.key]
    assert [int(key[-2]) for key in keys_] == bad


def test_reports_all_bad_addresses_of_a_network_at_once(tree: MachineTree) -> None:
    tree.write(
        MAIN,
        SOUND + '[network]\ninterface = "eth0"\naddress = ["x", "10.0.0.2/24", "10.0.0.1"]\n'
        'gateway = ["y", "z"]\n',
    )
    keys_ = [p.key for p in tree.errors() if p.key.startswith("network")]
    assert keys_ == ["network.address[0]", "network.address[2]", "network.gateway[0]",
                     "network.gateway[1]"]  # fmt: skip


@pytest.mark.parametrize("number", NUMBERS, ids=[f"{n:.0e}"[:6] if abs(n) < 10**300 else "long"
                                                 for n in NUMBERS])  # fmt: skip
@pytest.mark.parametrize("key", ["keep-days", "keep-last", "keep-bases"])
def test_reports_absurd_numbers(tree: MachineTree, key: str, number: int) -> None:
    sys.set_int_max_str_digits(0)
    try:
        text = str(number)
    finally:
        sys.set_int_max_str_digits(4300)
    tree.write(MAIN, SOUND.replace("[root.btrfs]\n", f"[root.btrfs]\n{key} = {text}\n"))
    assert len(tree.errors()) == 1


@pytest.mark.parametrize("days", [100_001, 999_999])
def test_refuses_an_excessive_number_of_days_and_names_an_alternative(
    tree: MachineTree, days: int
) -> None:
    tree.write(MAIN, SOUND.replace("[root.btrfs]\n", f"[root.btrfs]\nkeep-days = {days}\n"))
    assert "roots keep" in tree.complaint()


@pytest.mark.parametrize("size", ['"0"', "0", '"0%"', '"512"', "1024", '"1000K"'])
def test_refuses_a_root_in_memory_without_room_or_limit(tree: MachineTree, size: str) -> None:
    tree.write(MAIN, f'[root]\nwiper = "tmpfs"\n[root.tmpfs]\nsize = {size}\n')
    (problem,) = [p for p in tree.errors() if p.key == "root.tmpfs.size"]
    assert problem.hint


def test_reports_a_directory_in_place_of_the_configuration(
    tree: MachineTree,
) -> None:
    (tree.path / MAIN).unlink()
    (tree.path / MAIN).mkdir()
    done = subprocess.run(
        [Path(sys.executable).with_name("ephemeroot"), "--root", tree.path, "check"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"{tree.path / MAIN}: cannot read the file: it is a directory" in done.stdout
