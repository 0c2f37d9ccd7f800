"""The declarations that home.toml accepts; every mistake is reported in one run."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeroot.errors import Damaged, Misconfigured
from ephemeroot.home import bindfs, record
from ephemeroot.home.model import Entry, HomeConfiguration
from ephemeroot.home.reader import read
from ephemeroot.home.record import Mounted, Record
from ephemeroot.home.user import User
from ephemeroot.linux.mountinfo import Mount, unescape


@pytest.fixture
def user(tmp_path: Path) -> User:
    home = tmp_path / "home"
    home.mkdir()
    return User.current({"HOME": str(home)})


def declared(user: User, text: str) -> HomeConfiguration:
    """Parse the text as the user's home.toml."""
    path = Path(user.configuration)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return read(user)


def entries(user: User, text: str) -> dict[str, Entry]:
    """The entries of a valid configuration by their path below the home."""
    configuration = declared(user, text)
    assert [str(problem) for problem in configuration.problems] == []
    return {entry.target.removeprefix(f"{user.home}/"): entry for entry in configuration.entries}


def mistakes(user: User, text: str) -> list[str]:
    """The messages about an invalid configuration, without the file's name."""
    problems = declared(user, text).problems
    assert problems
    assert not any(problem.warning for problem in problems)
    return [str(problem).removeprefix(f"{user.configuration}:") for problem in problems]


def test_the_documented_example_is_valid(user: User) -> None:
    found = entries(
        user,
        """
        [persistence."/persistent/home/talyz"]
        directories = ["Downloads", { directory = ".local/share/Steam", method = "symlink" }]
        files = [".screenrc", { file = ".config/mimeapps.list" }]
        allow-other = true

        [persistence."~/dotfiles"]
        remove-prefix-directory = true
        default-directory-method = "symlink"
        directories = ["fish/.config/fish", { directory = "x/.x", method = "bindfs" }]
        files = ["screen/.screenrc-too"]

        [persistence."/other"]
        enable = false
        directories = ["Downloads"]
        """,
    )
    store = "/persistent/home/talyz"
    assert {path: (entry.source, entry.method) for path, entry in found.items()} == {
        "Downloads": (f"{store}/Downloads", "bindfs"),
        ".local/share/Steam": (f"{store}/.local/share/Steam", "symlink"),
        ".screenrc": (f"{store}/.screenrc", "symlink"),
        ".config/mimeapps.list": (f"{store}/.config/mimeapps.list", "symlink"),
        ".config/fish": (f"{user.home}/dotfiles/fish/.config/fish", "symlink"),
        ".x": (f"{user.home}/dotfiles/x/.x", "bindfs"),
        ".screenrc-too": (f"{user.home}/dotfiles/screen/.screenrc-too", "symlink"),
    }
    assert found["Downloads"].allow_other
    assert not found[".x"].allow_other
    assert found["Downloads"].is_directory
    assert not found[".screenrc"].is_directory


def test_parents_come_first(user: User) -> None:
    text = (
        '[persistence."/b"]\ndirectories = ["x/y"]\nfiles = ["x/z"]\n'
        '[persistence."/a"]\ndirectories = ["x", "x-y"]\nallow-other = true\n'
    )
    assert list(entries(user, text)) == ["x", "x/y", "x/z", "x-y"]


def test_reports_every_mistake_in_one_run(user: User) -> None:
    found = mistakes(
        user,
        """
[persistance]
[persistence."relative"]
[persistence."/store"]
hide-mounts = true
allow-other = "yes"
directories = [
  "/home/talyz/Downloads",
  "~/Music",
  "a/../b",
  { directory = "c", method = "symlnk" },
  { method = "bindfs" },
  7,
  ".",
]
files = "single"
remove-prefix-directory = false
default-directory-method = "bind"
""",
    )
    expected = (
        r"2: persistance: unknown key `persistance` \(did you mean `persistence`\?\)",
        r"3: persistence.relative: 'relative' is not an absolute path \(.* starts with \"~/\"\)",
        r"5: .*hide-mounts: unknown key `hide-mounts`",
        r"6: .*allow-other: the value must be true or false, .*\(write true without quotes\)",
        r"8: .*directories\[0\].*: '/home/talyz/Downloads' is absolute.*\(leave out the home\)",
        r"9: .*'~/Music' starts with a home .*\(write 'Music'\)",
        r"10: .*contains '\.\.'",
        r"11: .*'symlnk' is unknown.*did you mean `symlink`",
        r"12: .*`directory` is missing",
        r"13: .*must be a path below the home, not a number",
        r"14: .*'\.' is the home itself \(name directories and files under it\)",
        r"16: .*files: the value must be a list, not a string",
        r"18: .*'bind' is unknown.*did you mean `bindfs`",
    )
    for pattern in expected:
        assert any(re.match(pattern, line) for line in found), f"{pattern}\nnot in\n{found}"
    assert len(found) == len(expected)


S, T = '[persistence."/s"]', '[persistence."/t"]'
LINK = '{ directory = "a", method = "symlink" }'

CONFLICTS = {
    f'{S}\ndirectories = ["a", "a/"]': "~/a is declared twice",
    f'{S}\ndirectories = ["a"]\nfiles = ["a"]': "~/a is declared twice",
    f'{S}\ndirectories = ["a"]\n{T}\ndirectories = ["a"]': "~/a is declared twice",
    f'{S}\ndirectories = ["a", "a/b"]': "~/a/b is under ~/a, which persists in the same store",
    f'{S}\nfiles = ["a"]\ndirectories = ["a/b"]': "~/a/b is under ~/a, which is declared as a file",
    f'{S}\ndirectories = [{LINK}]\n{T}\nfiles = ["a/b"]': "which is a link into the store",
    f'{S}\ndirectories = ["a"]\n{T}\ndirectories = ["a/b"]': "~/a/b cannot be mounted inside",
    f'{S}\nremove-prefix-directory = true\nfiles = ["a"]': "'a' is empty without its",
    f'{S}\nremove-prefix-directory = true\nfiles = ["x/a", "y/a"]': "~/a is declared twice",
    '[persistence."~/s"]\ndirectories = ["s"]': "the source of ~/s is in ~/s",
    f'[persistence."~/s"]\nfiles = ["a"]\n{T}\ndirectories = ["s"]': "source of ~/a is in ~/s",
    f'{S}\ndirectories = [".config"]': "~/.config contains this configuration file",
    f'{S}\nfiles = [".local"]': "~/.local must be a directory: the record of 'ephemeroot home' is "
    "in it",
    f'{S}\nfiles = ["{"x" * 256}"]': "longer than 255 bytes",
    f'{S}\nfiles = ["{"x/" * 2047}y"]': "longer than 4095 bytes",
}


@pytest.mark.parametrize(("text", "reason"), CONFLICTS.items(), ids=range(len(CONFLICTS)))
def test_refuses_conflicting_entries(user: User, text: str, reason: str) -> None:
    found = mistakes(user, text)
    assert len(found) == 1, found
    assert reason in found[0]


def test_refuses_a_store_that_is_or_contains_the_home(user: User) -> None:
    above, name = os.path.split(user.home)
    found = mistakes(user, f'[persistence."{above}"]\ndirectories = ["{name}"]')
    assert "would be inside itself" in found[0]
    found = mistakes(user, f'[persistence."{user.home}"]\nfiles = ["a"]')
    assert "store and home are the same directory" in found[0]
    os.symlink(user.home, f"{above}/link")
    found = mistakes(user, f'[persistence."{above}/link"]\nfiles = ["a"]')
    assert "store and home are the same directory" in found[0]


@pytest.mark.parametrize(
    "text", ["", "[persistence]\n", '[persistence."/s"]\n', '[persistence."/s"]\nfiles = []\n']
)
def test_accepts_an_empty_configuration(user: User, text: str) -> None:
    assert entries(user, text) == {}


def test_reports_a_missing_file_and_invalid_toml(user: User) -> None:
    with pytest.raises(Misconfigured, match=r"home\.toml does not exist"):
        read(user)
    assert re.match(r"1: the file is not valid TOML", mistakes(user, "x = ")[0])
    Path(user.configuration).write_bytes(b"a = 1\nb = '\xff'\n")
    assert str(read(user).problems[0]).endswith("home.toml:2: the file is not UTF-8 text "
                                                "(save it as UTF-8)")  # fmt: skip


def test_ignores_relative_xdg_directories(user: User) -> None:
    one = User.current({"HOME": user.home, "XDG_CONFIG_HOME": "cfg", "XDG_STATE_HOME": ""})
    assert one == user
    assert user.state == f"{user.home}/.local/state/ephemeroot/home.json"


paths_ = st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=30)


@given(st.lists(paths_.map(lambda text: f"/s/{text}"), min_size=2, max_size=2, unique=True))
def test_sources_have_different_names_in_the_mount_table(sources: list[str]) -> None:
    try:
        names = [bindfs.fsname(source) for source in sources]
    except UnicodeEncodeError:  # a lone surrogate that represents no byte cannot be in a path
        return
    assert names[0] != names[1]
    for name in names:
        assert not set(name) & set(" ,\\\t\n")
        line = f"36 35 0:40 / /m rw - fuse.bindfs {name} rw,user_id=7"
        mount = Mount(line)
        assert unescape(name) == mount.source == name
        assert bindfs.is_mount_of(mount, sources[names.index(name)])


below = paths_.map(lambda text: f"/h/{text}").filter(lambda path: os.path.normpath(path) == path)


@given(
    st.dictionaries(below, st.builds(Mounted, paths_, paths_, paths_, paths_)),
    st.dictionaries(below, paths_),
    st.dictionaries(below, st.integers(0, 2**64 - 1)),
)
def test_a_written_record_reads_back(
    mounts: dict[str, Mounted], links: dict[str, str], directories: dict[str, int]
) -> None:
    written = Record(mounts, links, directories)
    assert record.parse(written.dump(), "file", "/h") == written
    assert record.parse(written.dump(), "file", "/other") == Record()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["target", "source", "path", "inode", "mounts", "links", "boot"]), inner
    ),
)  # fmt: skip


@given(json_values, json_values, json_values)
def test_an_invalid_record_is_refused(mounts: object, links: object, directories: object) -> None:
    content = {
        "format": record.FORMAT, "version": record.VERSION,
        "mounts": mounts, "links": links, "directories": directories,
    }  # fmt: skip
    read_ = record.parse(json.dumps(content).encode(), "file", "/h")
    for path in (*read_.mounts, *read_.links, *read_.directories):
        assert path.startswith("/h/")
        assert os.path.normpath(path) == path


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_refused_as_a_record(raw: bytes) -> None:
    with pytest.raises(Damaged):
        record.parse(raw, "file", "/h")
