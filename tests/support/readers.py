"""Every reader of a file that may be damaged: samples of its input, and properties of its answer.

`tests/project/test_readers.py` changes the samples at random, `tools/fuzz` is guided by coverage.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import image_plans
from ephemeroot.config.syntax import lines, toml
from ephemeroot.errors import Damaged, Refused, StoreMissing
from ephemeroot.home import record as home_record
from ephemeroot.hooks import plan as plans
from ephemeroot.hooks import records
from ephemeroot.hooks.cmdline import CommandLine
from ephemeroot.hooks.store import accounts as account_files
from ephemeroot.hooks.store import request
from ephemeroot.linux import documents, mountinfo, utab
from ephemeroot.machine import fstab
from ephemeroot.machine.accounts import Accounts


@dataclass(frozen=True)
class Reader:
    """``judge`` reads some bytes, and fails unless the accepted value can be written and read again
    with the same result. ``errors`` are those that callers handle.
    """

    name: str
    judge: Callable[[bytes], None]
    errors: tuple[type[Exception], ...]
    samples: tuple[bytes, ...]

    def read(self, raw: bytes) -> bool:
        """Whether *raw* is accepted."""
        try:
            self.judge(raw)
        except self.errors:
            return False
        return True


@contextmanager
def _folder() -> Iterator[Path]:
    """A directory of this process, in memory: the readers of files use it each time."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=base) as name:
        yield Path(name)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _json(raw: bytes) -> None:
    found = documents.parse(raw)
    assert repr(documents.parse(documents.dump(found))) == repr(found)


def _toml(raw: bytes) -> None:
    _, text = toml.parse(raw)
    lines.locate(text)


def _plan(raw: bytes) -> None:
    found = plans.parse(raw)
    for operation in (*found.wipe, *found.persist):
        try:
            operation.describe()
        except Damaged:
            continue
    assert plans.parse(found.dump()).dump() == found.dump()


def _request(raw: bytes) -> None:
    found = request.parse(raw)
    assert request.parse(found.dump()).dump() == found.dump()


def _home(raw: bytes) -> None:
    found = home_record.parse(raw, "record", "/home/eve")
    assert home_record.parse(found.dump(), "record", "/home/eve").dump() == found.dump()


def _command_line(raw: bytes) -> None:
    words = CommandLine(_text(raw))
    for key in ("ephemeroot", "ephemeroot.wipe", "ephemeroot.root", "root", "rootflags"):
        words.get(key)
        words.values(key)
        try:
            words.allows(key)
        except Refused:
            continue


def _mounts(raw: bytes) -> None:
    for mount in mountinfo.mounts(_text(raw)):
        assert utab.escape(mount.point).count("\n") == 0
        assert mountinfo.unescape(utab.escape(mount.point)) == mount.point


def _fstab(raw: bytes) -> None:
    for line in fstab.parse(_text(raw)):
        for text in (line.with_initrd(), line.with_subvolume("x")):
            (again,) = fstab.parse(text)
            assert (again.device, again.mount_point) == (line.device, line.mount_point)
        fstab.time_span(line.option("x-systemd.device-timeout") or "")


def _accounts(raw: bytes) -> None:
    with _folder() as root:
        (root / "etc").mkdir()
        for name in ("passwd", "group"):
            (root / "etc" / name).write_bytes(raw)
        found = Accounts.of(str(root))
    for name in ("root", "0", "eve", *found.users):
        found.uid(name)
        found.gid(name)


def _merged(raw: bytes) -> None:
    sound = {
        account_files.PASSWD: b"root:x:0:0::/root:/bin/sh\nsvc:x:99:99::/:/bin/false\n",
        account_files.GROUP: b"root:x:0:\nsvc:x:99:eve\n",
    }
    for path in sound:
        account_files.defect(path, raw)
        damaged = sound | {path: raw}
        for store, base in ((damaged, sound), (sound, damaged)):
            merged, _ = account_files.Merger(store, base).merge(path)
            if store[path]:
                before, after = _names(store[path]), _names(merged)
                assert after[: len(before)] == before


def _names(content: bytes) -> list[bytes]:
    return [line.split(b":")[0] for line in content.removesuffix(b"\n").split(b"\n")]


def _marker(raw: bytes) -> None:
    with _folder() as root:
        (root / ".ephemeroot-store").write_bytes(raw)
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            records.read_marker(fd, "/persistent")
        finally:
            os.close(fd)


PASSWD = b"root:x:0:0:root:/root:/bin/bash\neve:x:1000:1000:Eve,,,:/home/eve:/bin/sh\n+::::::\n"
GROUP = b"root:x:0:\nwheel:x:10:eve,ada\n"
MAIN = b"""\
[root]
wiper = "btrfs"
[root.btrfs]
keep-days = 30 # old
[[volumes]]
mount-point = '/persistent'
device = "UUID=3c2e1d0b-7f4a-4c1e-9a55-0e6f8d2b1c34"
[persistence."/persistent"]
directories = ["/var/log", { directory = "/srv", mode = "0750" }]
"""
HOME = (
    b'{"format": "%s", "version": %d, "mounts": [{"target": "/home/eve/a", "source": "/s", '
    b'"boot": "b", "device": "d", "fsname": "f"}], "links": [], "directories": []}'
    % (home_record.FORMAT.encode(), home_record.VERSION)
)

JSON = (b'{"a": [1, 2.5, null, true, "x\\u00e4"]}', b'"\\ud800"')
WORDS = b'root=UUID=x rootflags=subvol=root,ro ephemeroot.wipe=no quiet "a b=c"'
MOUNTS = b"""\
26 1 0:23 / / rw,noatime shared:1 - btrfs /dev/vda rw,subvol=/root
27 26 0:24 /a\\040b /srv/a\\040b rw - tmpfs none rw
"""
FSTAB = b"""\
UUID=x / btrfs subvol=root,x-systemd.device-timeout=1min30s 0 0
# no
/dev/sdb1 /srv/a\\040b ext4 noauto 0 2
"""
MARKER = b'{"version": 1, "id": "x", "path": "/persistent"}'

READERS = (
    Reader("json", _json, (ValueError,), JSON),
    Reader("configuration", _toml, (toml.SyntaxMistake,), (MAIN,)),
    Reader("plan", _plan, (Damaged,), (image_plans.plan().dump(),)),
    Reader("request", _request, (Damaged,), (request.Request("root", "x").dump(),)),
    Reader("home record", _home, (Damaged,), (HOME,)),
    Reader("kernel command line", _command_line, (), (WORDS,)),
    Reader("mountinfo", _mounts, (ValueError, IndexError), (MOUNTS,)),
    Reader("fstab", _fstab, (), (FSTAB,)),
    Reader("passwd and group", _accounts, (), (PASSWD, GROUP)),
    Reader("merge of passwd and group", _merged, (), (PASSWD, GROUP)),
    Reader("marker of a store", _marker, (StoreMissing, OSError), (MARKER,)),
)
