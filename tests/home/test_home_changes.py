"""Any sequence of declarations, with changes by the user in between: foreign files are never
changed, and our own links appear and disappear completely. Only links are used, which need no FUSE;
test_home_mounts.py tests mounts.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import proof
from ephemeroot.config.syntax import clean
from ephemeroot.errors import Refused
from ephemeroot.execution import Result
from ephemeroot.home.application import Application
from ephemeroot.home.operations import RemoveLink, Work
from ephemeroot.home.reader import read
from ephemeroot.home.record import Record
from ephemeroot.home.user import User
from ephemeroot.home.view import View
from ephemeroot.linux import paths

PATHS = ("a", "a/b", "a/b/c", "d", "d/e", ".local", ".local/state", ".local/state/ephemeroot", "f")
STORES = ("one", "two")


@dataclass
class Home:
    """A home and two stores, and the user's files by their resolved paths."""

    top: Path
    user: User
    precious: dict[str, str] = field(default_factory=dict)

    def declare(self, entries: dict[str, tuple[str, str]]) -> Application:
        """Apply these entries (path: store and kind); if they conflict, no entry is applied."""
        text = ""
        for store in STORES:
            listed: dict[str, list[str]] = {"directories": [], "files": []}
            for path, (in_store, kind) in entries.items():
                if in_store == store:
                    listed[kind].append(f'"{path}"')
            text += f'[persistence."{self.top}/{store}"]\ndefault-directory-method = "symlink"\n'
            text += "".join(f"{kind} = [{', '.join(paths)}]\n" for kind, paths in listed.items())
        file = self.top / "home.toml"
        file.write_text(text)
        configuration = read(self.user, str(file))
        usable = () if configuration.problems else configuration.entries
        self.events: list[Result] = []
        return Application(self.user, usable, listener=self.events.append)

    def act(self, deed: str, path: str) -> None:
        """A typical action of a user."""
        full = f"{self.user.home}/{path}"
        if deed != "mkdir" and clean.is_below(self.user.state, full):
            return  # then there is no record: see test_a_record_that_cannot_be_written
        try:
            if deed == "write":
                where = os.path.realpath(full)
                if os.path.exists(where) and where not in self.precious:
                    return
                Path(full).write_text(f"of {len(self.precious)}\n")
                self.precious[where] = Path(where).read_text()
            elif deed == "replace" and os.path.islink(full):
                os.unlink(full)
                self.act("write", path)
            elif deed == "mkdir":
                Path(full).mkdir(parents=True)
                self.act("write", f"{path}/file")
            elif deed == "link":
                os.symlink("/nowhere", full)
        except OSError:
            return  # not possible in this state

    def check(self) -> None:
        """Every file of the user is in its place with its content."""
        for path, content in self.precious.items():
            assert Path(path).read_text() == content, path

    def links(self) -> dict[str, str]:
        """All links in the home."""
        return {
            path: os.readlink(path)
            for top, folders, files in os.walk(self.user.home)
            for path in (f"{top}/{name}" for name in (*folders, *files))
            if os.path.islink(path)
        }


@contextmanager
def made_home() -> Iterator[Home]:
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder).resolve()
        for name in ("home", *STORES):
            (top / name).mkdir()
        yield Home(top, User.current({"HOME": str(top / "home")}))


declarations = st.dictionaries(
    st.sampled_from(PATHS),
    st.tuples(st.sampled_from(STORES), st.sampled_from(("directories", "files"))),
    max_size=4,
)
deeds = st.lists(
    st.tuples(
        st.sampled_from(("write", "replace", "mkdir", "link")),
        st.sampled_from((*PATHS, "a/x", "d/e/x")),
    ),
    max_size=3,
)


@settings(max_examples=proof.rounds(60, 1500))
@example([([("link", "a")], {"a/b": ("one", "directories")})])
@given(st.lists(st.tuples(deeds, declarations), min_size=1, max_size=4))
def test_no_sequence_of_changes_loses_a_file(
    history: list[tuple[list[tuple[str, str]], dict[str, tuple[str, str]]]],
) -> None:
    with made_home() as home:
        for actions, entries in history:
            for deed, path in actions:
                home.act(deed, path)
            foreign = {p: t for p, t in home.links().items() if t == "/nowhere"}
            home.declare(entries).apply()
            again = home.declare(entries)
            again.apply()
            assert home.events == []
            for finding in again.findings():
                assert finding.is_in_place or finding.is_blocked
            assert foreign.items() <= home.links().items()
            home.check()
        before = home.links()
        home.declare({}).apply()
        home.check()
        assert set(home.links().values()) <= {"/nowhere"}
        assert {p for p, t in before.items() if t == "/nowhere"} == set(home.links())
        # Directories that remain belong to the user, because they are not empty.
        for top, folders, files in os.walk(home.user.home):
            assert folders or files or top == home.user.home
        assert not os.path.exists(home.user.state)


def test_a_file_that_replaces_a_link_at_the_last_moment_is_restored() -> None:
    with made_home() as home:
        path = f"{home.user.home}/rc"
        os.symlink("/store/rc", path)
        view = View(home.user, Record(links={path: "/store/rc"}))

        class Racing(RemoveLink):
            """Another program renames its own file onto the link just before this step."""

            def execute(self) -> str:
                rename = paths.rename

                def late(*where: Any, flags: int) -> None:
                    paths.rename = rename
                    Path(f"{path}.new").write_text("precious\n")
                    os.rename(f"{path}.new", path)
                    rename(*where, flags=flags)

                paths.rename = late  # type: ignore[assignment]
                return super().execute()

        with pytest.raises(Refused, match="a program has replaced it"):
            Racing(Work(view, 0), path, "/store/rc").execute()
        assert os.listdir(home.user.home) == ["rc"]
        assert Path(path).read_text() == "precious\n"


def test_a_record_that_cannot_be_written() -> None:
    with made_home() as home:
        Path(f"{home.user.home}/.local").write_text("a file\n")
        entries = {"d/e": ("one", "directories"), "f": ("one", "files")}
        application = home.declare(entries)
        application.apply()
        (complaint,) = [result for result in home.events if result.failed]
        assert ".local: " in complaint.reason
        assert all(finding.is_in_place for finding in application.findings())
        home.declare(entries).stop(everything=True)
        assert home.links() == {}
        assert Path(f"{home.user.home}/.local").read_text() == "a file\n"
