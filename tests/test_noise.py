"""Patterns of what a comparison leaves out."""

from __future__ import annotations

import pytest

from ephemeroot.errors import Misconfigured
from ephemeroot.oldroots import noise


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("/tmp/**", ["/tmp/x", "/tmp/x/y", "/tmp/\n"], ["/tmp", "/tmpx", "/var/tmp/x"]),
        ("/home/*/.cache", ["/home/u/.cache"], ["/home/u/v/.cache", "/home/.cache"]),
        ("**/__py__", ["/__py__", "/usr/x/__py__"], ["/a__py__", "/__py__x"]),
        ("*.swp", ["/x.swp", "/etc/.x.swp"], ["/x.swp/y", "/swp"]),
        ("host*", ["/etc/hostname"], ["/etc/ahost"]),
        ("/etc/x", ["/etc/x"], ["/etc/x/y", "/etc/xy"]),
        ("/etc/", ["/etc"], ["/etc/x"]),
        ("/a/**/z", ["/a/z", "/a/b/z", "/a/b/c/z"], ["/az", "/a/bz"]),
        ("/var/lib/dpkg/lock*", ["/var/lib/dpkg/lock-frontend"], ["/var/lib/dpkg/lock/x"]),
        ("/x[ab!]?", ["/xaz", "/x!z"], ["/xcz", "/xa/"]),
        ("/x[!a]", ["/xb"], ["/xa"]),
        ("/x.y+(", ["/x.y+("], ["/xay+("]),
        ("**/a/b*", ["/a/b", "/x/a/bc"], ["/xa/b", "/a/b/c"]),
    ],
)  # fmt: skip
def test_a_pattern(pattern: str, yes: list[str], no: list[str]) -> None:
    matches = noise.matcher([pattern])
    assert [path for path in yes if not matches(path)] == []
    assert [path for path in no if matches(path)] == []


def test_none_and_all_that_is_known() -> None:
    assert not noise.matcher([])("/x")
    matches = noise.matcher(noise.known())
    assert matches("/tmp/x")
    assert matches("/usr/lib/python3/__pycache__")
    for path in ("/etc/passwd", "/etc/fstab", "/var/lib/docker", "/home/u/file", "/var/log/syslog"):
        assert not matches(path), path


@pytest.mark.parametrize("pattern", ["etc/x", "/x[z-a]"])
def test_a_pattern_that_means_nothing(pattern: str) -> None:
    with pytest.raises(Misconfigured):
        noise.matcher([pattern])
