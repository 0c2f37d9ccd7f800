"""Patterns of paths that a comparison leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest

from ephemeroot.errors import Misconfigured
from ephemeroot.init import presets
from ephemeroot.old_roots import noise


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
def test_a_pattern_matches(pattern: str, yes: list[str], no: list[str]) -> None:
    matches = noise.matcher([pattern])
    assert [path for path in yes if not matches(path)] == []
    assert [path for path in no if matches(path)] == []


def test_the_known_patterns_match_noise_and_not_state() -> None:
    assert not noise.matcher([])("/x")
    matches = noise.matcher(noise.known())
    assert matches("/tmp/x")
    assert matches("/usr/lib/python3/__pycache__")
    for path in ("/etc/passwd", "/etc/fstab", "/var/lib/docker", "/home/u/file", "/var/log/syslog"):
        assert not matches(path), path


@pytest.mark.parametrize("pattern", ["etc/x", "/x[z-a]"])
def test_refuses_a_pattern_that_can_match_nothing(pattern: str) -> None:
    with pytest.raises(Misconfigured):
        noise.matcher([pattern])


# State of services is not noise.

LISTED = Path(__file__).with_name("state_directories.txt")
UNITS = ("/usr/lib/systemd/system", "/lib/systemd/system", "/etc/systemd/system")
INSIDE = (
    "", "/state", "/a/b/data.db", "/private/key", "/cache.db", "/x.lock", "/stamp-backup.timer",
    "/.hidden", "/clock", "/lock", "/lists", "/x.swp", "/journal/1/system@1.journal~",
)  # fmt: skip


def state_directories() -> list[str]:
    """The directories in the list, and in the units of the machine that runs the tests."""
    names = {line for line in LISTED.read_text().splitlines() if line and line[0] != "#"}
    for folder in UNITS:
        for unit in Path(folder).glob("*.service"):
            for line in unit.read_text(errors="replace").splitlines():
                if line.startswith("StateDirectory="):
                    names |= {word.split(":")[0] for word in line.partition("=")[2].split()}
    return sorted(f"/var/lib/{prefix}{name}" for name in names for prefix in ("", "private/"))


def named_by_presets() -> list[str]:
    keys = ("directories", "filled", "files", "copies")
    return sorted({path for one in presets.load() for key in keys for path in one.get(key, ())})


@pytest.mark.parametrize("path", [*state_directories(), *named_by_presets()])
def test_the_state_of_a_service_or_a_preset_is_not_noise(path: str) -> None:
    matches = noise.matcher(noise.known())
    path = path.replace("*", "x")
    above = [path[:n] for n, char in enumerate(path) if char == "/" and n]
    assert [found for found in above if matches(found)] == []
    assert [path + inside for inside in INSIDE if matches(path + inside)] == []


@pytest.mark.parametrize(
    "path",
    [
        "/etc/resolv.conf",  # a static one; a link into /run is also in the base
        "/var/lib/systemd/credential.secret",
        "/var/lib/systemd/timers/stamp-backup.timer",
        "/var/lib/systemd/deb-systemd-helper-enabled/x.service.dsh-also",
        "/var/lib/logrotate/status",
        "/var/lib/PackageKit/transactions.db",
        "/var/log/journal/0123/system@0005f7.journal~",
        "/var/tmp/vi.recover/x",
        "/etc/own.lock",
        "/home/u/.thesis.tex.swp",
        "/lost+found/#12345",
    ],
)
def test_files_that_no_boot_creates_are_not_noise(path: str) -> None:
    assert not noise.matcher(noise.known())(path)
