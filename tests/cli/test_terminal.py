"""Output for people: sizes, spans of time, aligned tables, and a progress bar on a
terminal only.
"""

from __future__ import annotations

import io
import os
import pty

import pytest

from ephemeroot import amounts, terminal
from ephemeroot.cli.progress import Progress


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1048000, "1023.4 KiB"),
        (1048575, "1.0 MiB"), (3 << 30, "3.0 GiB"), (5 << 50, "5.0 PiB"), (5 << 60, "5120.0 PiB"),
    ],
)  # fmt: skip
def test_formats_sizes(count: int, text: str) -> None:
    assert amounts.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.004, "4 ms"), (0.5, "0.5 s"), (75, "75 s"), (600, "10 min"), (7300, "2 h"),
     (259200, "3 days")],
)  # fmt: skip
def test_formats_spans_of_time(seconds: float, text: str) -> None:
    assert terminal.duration(seconds) == text


def test_aligns_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.table([["a", "1", "x"], ["日本", "22", "a\nb"], ["e\u0301", "333"]], right=(1,))
    assert capsys.readouterr().out.splitlines() == [
        "  a       1  x", "  日本   22  a\\nb", "  e\u0301     333",
    ]  # fmt: skip


def test_shows_no_bar_without_a_terminal() -> None:
    stream = io.StringIO()
    with Progress("copying", 100, stream) as progress:
        progress.update(50)
    assert stream.getvalue() == ""


def all_of(terminal: int) -> bytes:
    """Read all output: one read may return a part."""
    seen = b""
    try:
        while part := os.read(terminal, 4096):
            seen += part
    except OSError:  # EIO: the other side was closed
        pass
    return seen


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream, Progress("copying", 200 << 20, stream) as progress:
        progress.update(50 << 20, "/etc/x\x1b")
        progress.update(60 << 20)  # too early to be drawn
    seen = all_of(ours).decode()
    os.close(ours)
    assert seen.startswith("\rcopying [######..................]  25%  of 200.0 MiB  /etc/x\\x1b")
    assert "30%" not in seen
    assert seen.endswith("\r")


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, ""), (1, "n0"), (5, "n0, n1, n2, n3, n4"), (6, "n0, n1, n2, n3, n4 and 1 more"),
     (2005, "n0, n1, n2, n3, n4 and 2,000 more")],
)  # fmt: skip
def test_a_list_is_cut_and_says_how_many_names_it_omits(number: int, shown: str) -> None:
    assert amounts.listed([f"n{one}" for one in range(number)]) == shown
