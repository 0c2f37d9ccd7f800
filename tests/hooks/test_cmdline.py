"""The kernel command line, as the boot code reads it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeroot.errors import Refused
from ephemeroot.hooks.cmdline import FALSE, TRUE, CommandLine


def test_the_last_word_takes_effect_and_dashes_equal_underscores() -> None:
    line = CommandLine("resume_offset=1 a=b resume-offset=2")
    assert line.get("resume-offset") == "2"
    assert line.values("resume-offset") == ["1", "2"]


def test_quotes_group_words_as_in_the_kernel() -> None:
    line = CommandLine('root="LABEL=my root" init="/a b" ""')
    assert line.root_device() == "LABEL=my root"
    assert line.get("init") == "/a b"


@pytest.mark.parametrize("value", [*TRUE, "YES", "On"])
def test_words_that_mean_true(value: str) -> None:
    assert CommandLine(f"ephemeroot.wipe={value}").allows("ephemeroot.wipe")
    assert not CommandLine(f"ephemeroot={value}").is_off("ephemeroot")


@pytest.mark.parametrize("value", [*FALSE, "NO", "Off"])
def test_words_that_mean_false(value: str) -> None:
    assert not CommandLine(f"ephemeroot.wipe={value}").allows("ephemeroot.wipe")
    assert CommandLine(f"ephemeroot={value}").is_off("ephemeroot")


def test_an_absent_word_and_one_without_value_mean_on() -> None:
    assert CommandLine("").allows("ephemeroot.wipe")
    assert CommandLine("ephemeroot.wipe").allows("ephemeroot.wipe")


def test_refuses_and_reports_a_value_that_is_not_boolean() -> None:
    line = CommandLine("ephemeroot.wipe=maybe")
    with pytest.raises(Refused, match="neither yes nor no"):
        line.allows("ephemeroot.wipe")
    assert len(line.problems()) == 1


def test_reports_misspelt_own_words_and_ignores_others() -> None:
    line = CommandLine("ephemeroot.wip=no ephemeroot.on-failure=explode quiet ephemeral=1")
    assert line.unknown() == ["ephemeroot.wip=no"]
    assert len(line.problems()) == 2
    assert line.policy() is None


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("root=UUID=abc", "UUID=abc"),
        ("root=/dev/vda2", "/dev/vda2"),
        ("root=block:/dev/mapper/x", "/dev/mapper/x"),
        ("root=zfs:tank/root", None),
        ("root=tmpfs", None),
        ("quiet", None),
    ],
)
def test_finds_the_root_device(text: str, device: str | None) -> None:
    assert CommandLine(text).root_device() == device


def test_the_last_subvol_names_the_root_without_slashes() -> None:
    line = CommandLine("rootflags=subvol=a rootflags=noatime,subvol=/b/c")
    assert line.root_subvolume() == "b/c"
    assert CommandLine("rootflags=noatime").root_subvolume() is None


def test_refuses_a_root_named_by_id() -> None:
    with pytest.raises(Refused, match="subvol="):
        CommandLine("rootflags=subvolid=256").root_subvolume()


@given(st.text())
def test_no_text_crashes_the_reader(text: str) -> None:
    line = CommandLine(text)
    line.problems()
    line.root_device()
    assert all(isinstance(key, str) for key, _ in line.words)
