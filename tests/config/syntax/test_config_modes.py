"""Modes, compared with chmod(1)."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import proof
from ephemeroot.config.syntax import modes
from ephemeroot.config.syntax.kinds import Mode
from ephemeroot.config.syntax.problem import Mistake

_WHAT = st.one_of(st.text("rwxXst", max_size=4), st.sampled_from("ugo"))
_ACTION = st.builds(str.__add__, st.sampled_from("+-="), _WHAT)
_OCTAL_ACTION = st.builds("{}{:o}".format, st.sampled_from("+-="), st.integers(0, 0o7777))
_CLAUSE = st.one_of(
    st.builds(
        lambda who, actions: who + "".join(actions),
        st.text("ugoa", max_size=3),
        st.lists(_ACTION, min_size=1, max_size=3),
    ),
    _OCTAL_ACTION,
)
SYMBOLIC = st.lists(_CLAUSE, min_size=1, max_size=4).map(",".join)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for files whose modes change."""
    return tmp_path_factory.mktemp("modes")


def chmod(scratch: Path, mode: str, *, directory: bool) -> int | None:
    """The mode that chmod gives a new directory or file; ``None`` if it refuses."""
    path = scratch / ("directory" if directory else "file")
    path.mkdir(exist_ok=True) if directory else path.touch()
    path.chmod(modes.DIRECTORY if directory else modes.FILE)
    run = subprocess.run(["chmod", "--", mode, path], umask=modes.UMASK, capture_output=True)
    return None if run.returncode else stat.S_IMODE(path.stat().st_mode)


def parsed(mode: str, *, directory: bool) -> int | None:
    try:
        return modes.parse(mode, directory=directory)
    except Mistake:
        return None


@given(mode=SYMBOLIC, directory=st.booleans())
@settings(max_examples=proof.rounds(60, 3000))
def test_parses_symbolic_modes_like_chmod(scratch: Path, mode: str, directory: bool) -> None:
    wanted = chmod(scratch, mode, directory=directory)
    assert wanted is not None
    assert modes.parse(mode, directory=directory) == wanted


@given(mode=st.text("ugoarwxXst+-=,07", min_size=1, max_size=7), directory=st.booleans())
@settings(max_examples=proof.rounds(60, 3000))
def test_refuses_modes_that_chmod_refuses(scratch: Path, mode: str, directory: bool) -> None:
    # chmod takes octal numbers of any length; here they have three or four digits.
    assume(not any(len(run) > 4 for run in _digits(mode)) and not mode.isdigit())
    assert parsed(mode, directory=directory) == chmod(scratch, mode, directory=directory)


def _digits(text: str) -> list[str]:
    return "".join(c if c.isdigit() else " " for c in text).split()


@given(mode=st.integers(0, 0o7777), directory=st.booleans())
@settings(max_examples=proof.rounds(30, 1000))
def test_parses_octal_modes_like_chmod(scratch: Path, mode: int, directory: bool) -> None:
    text = f"{mode:04o}"
    assert modes.parse(text, directory=directory) == mode
    assert chmod(scratch, text, directory=directory) == mode


@pytest.mark.parametrize("text", ["", "7", "77", "00755", "0o755", "0789", "rwxr-xr-x", "u=rwx;g="])
def test_refuses_text_that_is_not_a_mode(text: str) -> None:
    with pytest.raises(Mistake):
        modes.parse(text, directory=True)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (700, 'write it as a string: "0700" or "1274" (if 0o1274 was meant)'),
        (0o700, 'write it as a string: "0700" (if 0o700 was meant)'),
        (99999, 'write it as a string: write "0750", or "u=rwx,g=rx,o=" as for chmod'),
    ],
)
def test_refuses_an_integer_as_a_mode(value: int, hint: str) -> None:
    with pytest.raises(Mistake) as caught:
        Mode().parse(value)
    assert caught.value.hint == hint
