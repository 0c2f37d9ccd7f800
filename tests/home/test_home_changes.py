"""Whatever is declared one after the other, and whatever the user does meanwhile: nothing that
is not ours is ever touched, and what is ours comes and goes completely. With links only, which
need no FUSE; the mount is in test_home.py.
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
class Scene:
    """A home and two stores, and the user's files by where they really are."""

    top: Path
    user: User
    precious: dict[str, str] = field(default_factory=dict)

    def declare(self, entries: dict[str, tuple[str, str]]) -> Application:
        """An application of these entries (path: store and kind), or of none if they conflict."""
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
        """Something that users do."""
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
            return  # not possible as things stand

    def check(self) -> None:
        """Every file of the user is where it was and says what it said."""
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
def scene() -> Iterator[Scene]:
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder).resolve()
        for name in ("home", *STORES):
            (top / name).mkdir()
        yield Scene(top, User.current({"HOME": str(top / "home")}))


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


@settings(max_examples=150)
@example([([("link", "a")], {"a/b": ("one", "directories")})])
@given(st.lists(st.tuples(deeds, declarations), min_size=1, max_size=4))
def test_any_history(
    history: list[tuple[list[tuple[str, str]], dict[str, tuple[str, str]]]],
) -> None:
    with scene() as stage:
        for actions, entries in history:
            for deed, path in actions:
                stage.act(deed, path)
            foreign = {p: t for p, t in stage.links().items() if t == "/nowhere"}
            stage.declare(entries).apply()
            again = stage.declare(entries)
            again.apply()
            assert stage.events == []
            for finding in again.findings():
                assert finding.is_in_place or finding.is_blocked
            assert foreign.items() <= stage.links().items()
            stage.check()
        before = stage.links()
        stage.declare({}).apply()
        stage.check()
        assert set(stage.links().values()) <= {"/nowhere"}
        assert {p for p, t in before.items() if t == "/nowhere"} == set(stage.links())
        # Directories that are left are the user's, for there is something in them.
        for top, folders, files in os.walk(stage.user.home):
            assert folders or files or top == stage.user.home
        assert not os.path.exists(stage.user.state)


def test_what_takes_a_links_place_at_the_last_moment_is_put_back() -> None:
    with scene() as stage:
        path = f"{stage.user.home}/rc"
        os.symlink("/store/rc", path)
        view = View(stage.user, Record(links={path: "/store/rc"}))

        class Racing(RemoveLink):
            """Is overtaken by a program that renames its own file onto the link."""

            def execute(self) -> str:
                rename = paths.rename

                def late(*where: Any, flags: int) -> None:
                    paths.rename = rename
                    Path(f"{path}.new").write_text("precious\n")
                    os.rename(f"{path}.new", path)
                    rename(*where, flags=flags)

                paths.rename = late  # type: ignore[assignment]
                return super().execute()

        with pytest.raises(Refused, match="not touched"):
            Racing(Work(view, 0), path, "/store/rc").execute()
        assert os.listdir(stage.user.home) == ["rc"]
        assert Path(path).read_text() == "precious\n"


def test_a_record_that_cannot_be_written() -> None:
    with scene() as stage:
        Path(f"{stage.user.home}/.local").write_text("a file\n")
        entries = {"d/e": ("one", "directories"), "f": ("one", "files")}
        application = stage.declare(entries)
        application.apply()
        (complaint,) = [result for result in stage.events if result.failed]
        assert ".local: " in complaint.reason
        assert all(finding.is_in_place for finding in application.findings())
        stage.declare(entries).stop(everything=True)
        assert stage.links() == {}
        assert Path(f"{stage.user.home}/.local").read_text() == "a file\n"
