"""A pool on a file, wipes of datasets in it, and the functions that cases need for both."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from complete_boot import mark_boot_complete
from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.linux import mountinfo, mounts
from ephemeroot.wipers.contract import Boot, Outcome
from ephemeroot.wipers.history import History, Installed
from ephemeroot.wipers.zfs import Zfs, channel, datasets

POOL = "cases"
TOP = f"{POOL}/ROOT"
ROOT = f"{TOP}/the root"  # a space is allowed
BASE = f"{TOP}/base"
OLD = f"{TOP}/old-roots"
NEW = f"{ROOT}.ephemeroot-new"
NOW = 1800000000
DAY = 86400
MIB = 1 << 20
HINT = "\nhint: "
KEY = Path("/run/cases.key")
IMAGE = Path("/dev/shm/cases.img")  # on a disk, every change would wait for that
WHOLE = os.environ.get("EPHEMEROOT_PROOF") == "1"
NOAUTO = 2  # ZFS_CANMOUNT_NOAUTO, include/sys/fs/zfs.h

Prove = Callable[[str], None]
Previous = Callable[[str, bool], None]


Case = TypeVar("Case", bound=Callable[[], None])
PROOF: set[Callable[[], None]] = set()
"""Cases that resemble those of CI: they run only in `make proof`."""


def only_in_proof(case: Case) -> Case:
    """Mark *case* as one of PROOF."""
    PROOF.add(case)
    return case


def make() -> None:
    """Create the pool, unless an earlier case has left it."""
    if IMAGE.exists():
        return
    with IMAGE.open("wb") as file:
        file.truncate(1 << 30)
    run("zpool", "create", "-f", "-O", "mountpoint=none", POOL, str(IMAGE))


def remove() -> None:
    """Destroy the pool: after a failed case the next one gets a new pool."""
    subprocess.run(["zpool", "destroy", "-f", POOL], capture_output=True)
    IMAGE.unlink(missing_ok=True)


SMALL = Path("/run/small")  # a tmpfs


@contextmanager
def another_pool(*options: str, size: int = 128 * MIB) -> Iterator[None]:
    """A pool of that name made with *options*, instead of the usual one."""
    run("zpool", "export", POOL)
    SMALL.mkdir(exist_ok=True)
    image = SMALL / "image"
    with image.open("wb") as file:
        file.truncate(size)
    run("zpool", "create", "-f", *options, "-O", "mountpoint=none", POOL, str(image))
    yield
    run("zpool", "destroy", "-f", POOL)
    image.unlink()
    run("zpool", "import", "-N", "-d", str(IMAGE.parent), POOL)


# Programs start slowly in a machine without KVM, so they are used only where necessary.

_GET = """
local argv = (...)["argv"]
if not zfs.exists(argv[1]) then return nil end
local found = zfs.get_prop(argv[1], argv[2])
return tostring(found)
"""

_LIST = """
local argv = (...)["argv"]
local found = {}
local function look(name)
  for child in zfs.list.children(name) do
    if argv[2] == "filesystem" then found[#found + 1] = child end
    look(child)
  end
  if argv[2] == "snapshot" then
    for snapshot in zfs.list.snapshots(name) do found[#found + 1] = snapshot end
  end
  if argv[2] == "bookmark" then
    for bookmark in zfs.list.bookmarks(name) do found[#found + 1] = bookmark end
  end
end
if zfs.exists(argv[1]) then look(argv[1]) end
return found
"""

_STATE = """
local found = {}
local function note(name, kind)
  local line = name
  for _, property in ipairs({"guid", "createtxg", "origin", "canmount", "mountpoint",
      "ephemeroot:state", "userrefs"}) do
    line = line .. " " .. tostring((zfs.get_prop(name, property)))
  end
  found[#found + 1] = line
end
local function look(name)
  note(name)
  for snapshot in zfs.list.snapshots(name) do note(snapshot) end
  for bookmark in zfs.list.bookmarks(name) do found[#found + 1] = bookmark end
  for child in zfs.list.children(name) do look(child) end
end
look((...)["argv"][1])
return found
"""


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, (words, done.stdout + done.stderr)
    return done.stdout


def names_of(kind: str, top: str) -> list[str]:
    return sorted(channel.listed(channel.read(POOL, _LIST, top, kind)))


def exists(name: str) -> bool:
    return bool(channel.library().lzc_exists(name.encode()))


def value(name: str, key: str) -> str:
    found = channel.read(POOL, _GET, name, key)
    return str(found)


def bootfs() -> str:
    return run("zpool", "get", "-Ho", "value", "bootfs", POOL).strip()


def create(name: str, mountpoint: str) -> None:
    channel.library().lzc_create(name.encode(), props={b"mountpoint": mountpoint.encode()})


def snapshot(*names: str) -> None:
    for name in names:
        channel.library().lzc_snapshot([name.encode()])


def clone(origin: str, name: str, mountpoint: str) -> None:
    props = {b"mountpoint": mountpoint.encode(), b"canmount": NOAUTO}
    channel.library().lzc_clone(name.encode(), origin.encode(), props)


def destroy(name: str) -> None:
    """Destroy one dataset or snapshot without children."""
    code = channel.change(POOL, 'return zfs.sync.destroy((...)["argv"][1])', name)
    assert code == 0, (name, code)


@contextmanager
def mounted(name: str) -> Iterator[Path]:
    """Mount by the system call, for which all mount points are legacy ones."""
    with tempfile.TemporaryDirectory() as folder:
        mounts.attach_at(mounts.create("zfs", name, ["ro"] if "@" in name else []), folder)
        try:
            yield Path(folder)
        finally:
            datasets.unmount(folder)


def write(name: str, file: str, text: str) -> None:
    with mounted(name) as top:
        (top / file).write_text(text)


def content(name: str) -> dict[str, str]:
    """Its files; with snapdir=visible there is the folder of its snapshots as well."""
    with mounted(name) as top:
        return {path.name: path.read_text() for path in top.iterdir() if path.name != ".zfs"}


def start(
    *, mountpoint: str = "legacy", at: str = TOP, fill: Callable[[Path], None] | None = None
) -> None:
    """A base with a blank snapshot, and a root that is a clone of it, with a blank one too. The
    base has the file `release`, or the content that *fill* creates.
    """
    for name in (TOP, f"{POOL}/locked"):
        if exists(name):
            run("zfs", "destroy", "-R", name)
    create(TOP, "none")
    if at != TOP:
        KEY.write_text("x" * 32)
        options = ("encryption=on", "keyformat=raw", f"keylocation=file://{KEY}", "mountpoint=none")
        run("zfs", "create", *(w for o in options for w in ("-o", o)), at)
    base, root = f"{at}/base", f"{at}/the root"
    create(base, "legacy")
    with mounted(base) as top:
        if fill is not None:
            fill(top)
        else:
            (top / "release").write_text("base")
    snapshot(f"{base}@blank")
    clone(f"{base}@blank", root, mountpoint)
    snapshot(f"{root}@blank")


class Told:
    """The messages and results of a wipe."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.proven: list[list[str]] = []
        self.previous: list[tuple[list[str], bool]] = []


def wipe(
    mode: str,
    *,
    root: str = ROOT,
    told: Told | None = None,
    log: Callable[[str], None] | None = None,
    now: float = NOW,
    request: str | None = None,
    dry_run: bool = False,
    fail: str = "",
    keep: bool = False,
    line: str | None = None,
    target: str = "/",
    system: str = "",
    **settings: Any,
) -> Outcome:
    seen = told or Told()

    def prove(path: str) -> None:
        seen.proven.append(sorted(os.listdir(path)))
        if fail == "prove":
            raise Refused("it could not boot")

    def previous(path: str, complete: bool) -> bool:
        seen.previous.append((sorted(os.listdir(path)), complete))
        if fail == "previous":
            raise Refused("the store is full")
        return keep

    at = root.rpartition("/")[0]
    wanted: dict[str, object] = {"mode": mode, "dataset": root}
    if mode == "rotate":
        wanted |= {"base": f"{at}/base", "old-roots": f"{at}/old-roots"}
    private = "/run/cases"
    shutil.rmtree(private, ignore_errors=True)
    os.makedirs(private)
    boot = Boot(
        device="", subvolume=None, target=target, private=private, boot_id="case", now=now,
        synchronised=True, prove=prove, previous=previous, log=log or seen.lines.append,
        request=request, dry_run=dry_run, budget=60.0, system=system,
        root=line if line is not None else f"zfs:{root.replace(' ', '+')}",
    )  # fmt: skip
    return Zfs(wanted | settings).wipe(boot)


def refused(mode: str, *words: str, **arguments: Any) -> None:
    """The wipe is refused with this message, and nothing has changed."""
    before = state()
    said = complaint(Refused, lambda: wipe(mode, **arguments))
    assert all(word in said for word in words), (words, said)
    assert state() == before


def foreseen(mode: str) -> list[str]:
    """The refusals of the next boot that `ephemeroot check` predicts."""
    settings: dict[str, object] = {"mode": mode, "dataset": ROOT}
    wiper = Zfs(settings | ({"base": BASE} if mode == "rotate" else {}))
    history = wiper.history(Installed(device="", private="/run/cases", live="/"))
    assert history is not None
    from ephemeroot import backends  # slow to import

    with history:
        found = backends.of(wiper).obstacles(history)
    return [f"{error.message}{HINT}{error.hint}" for error in found]


def complaint(kind: type[EphemerootError], action: Callable[[], object]) -> str:
    """The message of *action* when it fails; empty if it does not."""
    try:
        action()
    except kind as error:
        return f"{error.message}{HINT}{error.hint}"
    return ""


def state() -> list[str]:
    """All datasets, snapshots and properties in the pool."""
    return channel.listed(channel.read(POOL, _STATE, POOL))


def live(root: str = ROOT) -> None:
    """Complete a boot: the root is mounted, and marked."""
    with mounted(root) as top:
        assert mark_boot_complete(Zfs({"mode": "rotate"}), top)
    assert datasets.look(root)[root].state == "boot-complete"


def cut_at(step: int, **arguments: Any) -> bool:
    """End a process that rotates before its *step*; return whether it came that far."""
    child = os.fork()
    if child == 0:
        count = 0

        def log(line: str) -> None:
            nonlocal count
            count += 1
            if count == step:
                os._exit(9)

        try:
            wipe("rotate", log=log, **arguments)
        except BaseException:  # noqa: BLE001  # the child must not continue as its parent
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9), code
    for mount in mountinfo.mounts():
        if mount.point.startswith("/run/cases/"):
            datasets.unmount(mount.point)
    return code == 9


def unsynchronised(now: float) -> Outcome:
    at: dict[str, object] = {"mode": "rotate", "dataset": ROOT, "base": BASE, "old-roots": OLD}
    boot = Boot(
        device="", subvolume=None, target="/", private="/run/cases", boot_id="case", now=now,
        synchronised=False, prove=lambda path: None, log=lambda line: None, root=f"ZFS={ROOT}",
    )  # fmt: skip
    return Zfs(at).wipe(boot)


def history() -> History:
    at: dict[str, object] = {"mode": "rotate", "dataset": ROOT, "base": BASE}
    return Zfs(at).history(Installed(device="", private="/run/cases", live="/"))


def commands(said: str) -> list[str]:
    """The commands of a hint: those in single quotes, or the hint itself."""
    hint = said.partition(HINT)[2]
    found: list[str] = re.findall(r"'((?:zfs|zpool) [^']+)'", hint)
    return found or [hint]


def follow(said: str, number: int = 0, *, where: Path = IMAGE.parent, **names: str) -> str:
    """Run a command of the hint, the first one or that *number*, as a reader would, in a shell;
    *names* has the values for words in capitals. Pools are searched in the folder *where*. Return
    the command.
    """
    command = commands(said)[number]
    for word, name in names.items():
        command = re.sub(rf"\b{word}\b", name, command)
    environment = os.environ | {"ZPOOL_IMPORT_PATH": str(where)}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (said, command, done)
    return command


def source(name: str, key: str) -> str:
    return run("zfs", "get", "-Hpo", "source", key, name).strip()
