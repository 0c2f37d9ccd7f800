"""How much work a user's files can cause a boot and a copy back: there is an upper limit.

The bytes that are really read are counted (``rchar`` in proc_pid_io(5)), not timed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from boot import STORE, Boot, copy, directory, file, parent
from checkout import CHECKOUT
from ephemeroot.errors import EphemerootError
from ephemeroot.hooks import limits, records
from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.operations.hide import Hide
from ephemeroot.hooks.operations.machine_id import MachineId
from ephemeroot.hooks.store import order
from ephemeroot.hooks.store.copyback import CopyBack
from ephemeroot.linux.bounds import Bounds, Budget, Meter

pytestmark = pytest.mark.requires_root

HUGE = 7 << 60  # 7 EiB, which is one hole
UIDS = (4242, 4343, 4444)
PASSWD = "root:x:0:0::/root:/bin/sh\n"


@pytest.fixture(params=["tmpfs", "btrfs"])
def boot(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Boot]:
    made = Boot(tmp_path, request.param, megabytes=128)
    yield made
    made.unmount()


class Reading:
    """The number of bytes that this process reads within a ``with``."""

    bytes = 0

    def __enter__(self) -> Reading:
        self.bytes = -self._now()
        return self

    def __exit__(self, *_: object) -> None:
        self.bytes += self._now()

    @staticmethod
    def _now() -> int:
        lines = Path("/proc/self/io").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("rchar: ")).split()[1])


def homes(*uids: int) -> list[Operation]:
    return [
        parent("/home"),
        *(parent(f"/home/{uid}", user=uid, group=uid, mode=0o755) for uid in uids),
    ]


def copy_back(boot: Boot, *paths: str, limit: int = 1 << 20) -> CopyBack:
    """Copy back these users' and root's files."""
    store = os.open(boot.root(STORE), os.O_PATH)
    root = os.open(boot.target, os.O_RDONLY)
    entries = []
    for path in paths:
        user = int(path.split("/")[2]) if path.startswith("/home/") else 0
        entries.append({"path": path, "store": STORE, "source": path[1:], "user": user})
    try:
        back = CopyBack(entries, {STORE: store}, root, limit)
        back.run(0)
    finally:
        os.close(root)
        os.close(store)
    return back


@pytest.mark.parametrize("size", [HUGE, 1 << 42, (1 << 33) + 1])
def test_holes_of_a_users_file_are_not_read(boot: Boot, size: int) -> None:
    """The file is copied to the root, found changed, compared, copied back, and compared again."""
    path = f"/home/{UIDS[0]}/.rc"
    (boot.store / "etc").mkdir()
    (boot.store / "etc/passwd").write_text(PASSWD)
    operations = [
        *homes(*UIDS[:1]), parent("/etc"), copy(path), copy("/etc/passwd"), directory("/kept"),
    ]  # fmt: skip
    boot.persist(*operations)
    with Reading() as reading:
        boot.root(path).touch()
        os.truncate(boot.root(path), size)
        changed = PASSWD + "new:x:0:0::/root:/bin/sh\n"
        boot.root("/etc/passwd").write_text(changed)
        back = copy_back(boot, path, "/etc/passwd")
        assert (boot.root(STORE) / "etc/passwd").read_text() == changed
        assert back.copied[0] == "/etc/passwd"
        copy_back(boot, path, "/etc/passwd")
        boot.next_boot()
        boot.persist(*operations)
        assert boot.root("/kept").is_mount()
        assert boot.root("/etc/passwd").read_text() == changed
    assert reading.bytes < 2 << 20


def test_data_is_read_up_to_the_limit_and_no_further(
    boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "READ", 1 << 20)
    path = f"/home/{UIDS[0]}/.rc"
    stored = boot.store / path[1:]
    stored.parent.mkdir(parents=True)
    boot.root(path).parent.mkdir(parents=True)
    for place in (stored, boot.root(path)):
        with place.open("wb") as content:
            for _ in range(24):
                content.write(b"the same " * (1 << 17))
        os.utime(place, (5, 5))
    with Reading() as reading:
        boot.persist(*homes(UIDS[0]), copy(path), directory("/kept"), seed_limit=1 << 19)
        assert boot.root("/kept").is_mount()
    assert reading.bytes < 4 << 20
    assert any(path[1:] in problem for problem in boot.problems())


def test_account_files_are_not_read_beyond_a_limit(boot: Boot) -> None:
    (boot.store / "etc").mkdir()
    (boot.store / "etc/passwd").touch()
    os.truncate(boot.store / "etc/passwd", 1 << 40)
    boot.root("/etc").mkdir()
    boot.root("/etc/passwd").write_text(PASSWD)
    with Reading() as reading:
        boot.persist(parent("/etc"), copy("/etc/passwd"))
    assert reading.bytes < limits.ACCOUNTS + (2 << 20)
    assert boot.root("/etc/passwd").read_text() == PASSWD
    assert (boot.root(STORE) / "etc/passwd.damaged").stat().st_size == 1 << 40


@pytest.mark.parametrize(
    "name", [".ephemeroot/generation", ".ephemeroot/unseeded", ".ephemeroot/copies/commit"]
)
def test_records_are_not_read_beyond_a_limit(boot: Boot, name: str) -> None:
    record = boot.store / name
    record.parent.mkdir(mode=0o700, parents=True)
    record.touch()
    os.truncate(record, 1 << 40)
    (boot.store / "etc").mkdir()
    (boot.store / "etc/one").write_text("one")
    with Reading() as reading:
        try:
            boot.persist(parent("/etc"), copy("/etc/one"), file("/etc/two"), directory("/kept"))
        except EphemerootError as error:
            assert name.rpartition("/")[2] in str(error)  # noqa: PT017
    assert reading.bytes < limits.PLAN + (2 << 20)


@pytest.mark.parametrize("size", [0, 1, 5, 6, 1 << 20])
def test_content_is_read_completely_or_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "f").write_bytes(b"x" * size)
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    try:
        if size <= 5:
            assert records.read_open(fd, 5, "f") == b"x" * size
        else:
            with pytest.raises(OSError, match="larger than"):
                records.read_open(fd, 5, "f")
            assert os.lseek(fd, 0, os.SEEK_CUR) == 6
    finally:
        os.close(fd)


def test_one_users_files_do_not_stop_others(boot: Boot) -> None:
    """A file that is too large, of another type, or unreadable is named, and the other files are
    stored.
    """
    paths = [f"/home/{uid}/{name}" for uid in UIDS for name in ("a", "b")]
    boot.persist(*homes(*UIDS), *map(copy, paths), parent("/etc"), copy("/etc/adjtime"))
    for path in paths:
        boot.root(path).write_text("changed")
    boot.root("/etc/adjtime").write_text("changed")
    bad = boot.root(paths[0])
    bad.write_bytes(os.urandom((1 << 20) + 1))
    boot.root(paths[2]).unlink()
    os.mkfifo(boot.root(paths[2]))
    back = copy_back(boot, *paths, "/etc/adjtime")
    wanted = ["/etc/adjtime", *(p for p in paths if p not in (paths[0], paths[2]))]
    if boot.fstype == "tmpfs":
        assert back.copied == wanted
        assert len(back.problems) == 2
    assert set(wanted) <= set(back.copied)


def test_at_the_deadline_the_remaining_paths_are_named(
    boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [f"/home/{uid}/a" for uid in UIDS]
    boot.persist(*homes(*UIDS), *map(copy, paths))
    for path in paths:
        boot.root(path).write_text("changed")
    monkeypatch.setattr(limits, "COPY_BACK", 0.0)
    back = copy_back(boot, *paths)
    assert back.copied == []
    assert [problem.split()[0] for problem in back.problems] == paths
    monkeypatch.undo()
    assert copy_back(boot, *paths).copied == paths


def test_without_time_all_existing_content_is_bound(
    boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attaching and binding are never cut short."""
    monkeypatch.setattr(limits, "PERSISTENCE", 0.0)
    (boot.store / "have").mkdir()
    (boot.store / "one").write_text("one")
    boot.root("/new").mkdir()
    boot.root("/new/content").write_text("content")
    boot.persist(directory("/new"), directory("/have"), file("/one"))
    assert boot.root("/have").is_mount()
    assert os.path.ismount(boot.root("/one"))
    assert not boot.root("/new").is_mount()
    assert not (boot.root(STORE) / "new").exists()
    assert any("/new" in problem for problem in boot.problems())


# The order


def test_roots_entries_come_first_and_parents_before_children() -> None:
    operations: list[Operation] = [
        parent("/etc"), parent("/home"), parent("/home/a", user=UIDS[0]), directory("/home/a/x"),
        parent("/home/a/y", user=UIDS[0]), file("/home/a/y/z"), parent("/home/b", user=UIDS[1]),
        copy("/home/b/f"), parent("/home/c"), directory("/home/c/of-root"), MachineId(store=STORE),
        directory("/srv"), Hide(paths=["/srv"]), directory("/zz"),
    ]  # fmt: skip
    groups = order.grouped(operations)
    assert [group.user for group in groups] == [0, *UIDS[:2], 0]
    sequence = [operation for group in groups for operation in group.operations]
    assert sorted(map(id, sequence)) == sorted(map(id, operations))
    assert isinstance(sequence[-1], Hide)
    paths = [str(getattr(o, "path", "")) for o in sequence]
    for path in paths:
        above = [p for p in paths if p and path.startswith(p + "/")]
        assert all(paths.index(p) < paths.index(path) for p in above)
    users = [p for p in paths if p.startswith(("/home/a/", "/home/b/"))]
    assert paths[-len(users) - 1 : -1] == users


def test_attaches_and_binds_in_the_plans_order() -> None:
    """Paths of users that have to be seeded or copied first are the exception."""
    operations: list[Operation] = [
        parent("/a"), parent("/a/u", user=UIDS[0]), directory("/a/u/have"), directory("/a/u/new"),
        file("/a/u/new/inner"), copy("/a/u/rc"), parent("/b"), directory("/b/have"),
        Hide(paths=["/b/have"]),
    ]  # fmt: skip
    owners = order.Owners(operations)
    long = ("/a/u/new", "/a/u/rc", "/b/have")
    groups = order.deferred(operations, owners, lambda o: getattr(o, "path", "") in long)
    found = [getattr(o, "path", "hide") for group in groups for o in group.operations]
    assert found == [
        "/a", "/a/u", "/a/u/have", "/b", "/b/have", "/a/u/new", "/a/u/new/inner", "/a/u/rc", "hide",
    ]  # fmt: skip
    assert order.deferred(operations, owners, lambda o: False)[0].operations == operations[:-1]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_no_user_uses_up_the_time_of_the_others(count: int) -> None:
    """The first user takes all the time it gets, and the others still get as much."""
    allowed = limits.Time(70.0)
    shares = []
    for waiting in range(count, 0, -1):
        shares.append(allowed.share(waiting) - time.monotonic())
        allowed.end -= shares[-1]  # simulates that much elapsed time
    assert shares == pytest.approx([70.0 / count] * count, rel=0.05)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_no_user_uses_up_the_limits_of_the_others(count: int) -> None:
    """For each limit: bytes copied, bytes read, names, time."""
    start = time.monotonic()
    whole = Bounds(bytes_copied=700, bytes_read=1400, entries=2100, deadline=start + 70)
    budget = Budget(whole)
    for waiting in range(count, 0, -1):
        share = budget.share(waiting)
        assert (share.bytes_copied, share.bytes_read, share.entries) == (
            700 // count, 1400 // count, 2100 // count,
        )  # fmt: skip
        assert share.deadline is not None
        assert share.deadline <= time.monotonic() + 70 / waiting
        meter = Meter(share)
        meter.copied, meter.read, meter.entries = 700 // count, 1400 // count, 2100 // count
        budget.spend(meter)
    assert (budget.left.bytes_copied, budget.left.entries) == (0, 0)
    one = Budget(whole).within(Bounds(entries=5, depth=3, file_bytes=2))
    assert (one.entries, one.depth, one.file_bytes, one.bytes_copied) == (5, 3, 2, 700)
    assert one.deadline == whole.deadline


def test_the_manual_has_the_numbers() -> None:
    folder = CHECKOUT
    document = (folder / "docs/persistence.md").read_text().partition("## Limits")[2]
    page = (folder / "man/ephemeroot-boot.7").read_text().partition(".Sh SEEDING")[2]
    page = " ".join(page.partition(".Sh FILES")[0].split())
    mib = {limits.READ, limits.RECORD, limits.PLAN, limits.ACCOUNTS}
    assert all(size % (1 << 20) == 0 for size in mib)
    for number in (f"{limits.ENTRIES:,}", f"{limits.DEPTH:,}"):
        assert number in document
        assert number in page
    for size in mib:
        assert f"{size >> 20} MiB" in document
        assert f"{size >> 20} MiB" in page
    for seconds in (limits.SEEDING, limits.PERSISTENCE, limits.COPY_BACK, limits.CLEANING):
        assert f"{seconds:.0f} s" in document
        assert f"{seconds:.0f} seconds" in page
