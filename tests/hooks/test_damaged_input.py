"""Whatever a file contains, its reader raises only the error that its callers handle."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import odd_values
import proof
from ephemeroot import cli
from ephemeroot.adopt import drop_in
from ephemeroot.base import record as base_record
from ephemeroot.cli import boot_complete, copyback
from ephemeroot.config.syntax import lines, settings, toml
from ephemeroot.errors import Damaged, EphemerootError, Refused, StoreMissing
from ephemeroot.home import record as home_record
from ephemeroot.hooks import plan as plans
from ephemeroot.hooks import records
from ephemeroot.hooks.cmdline import CommandLine
from ephemeroot.hooks.guards import resume
from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.operations.copies import Copy
from ephemeroot.hooks.operations.directories import Directory, Parent
from ephemeroot.hooks.operations.files import File
from ephemeroot.hooks.operations.hide import Hide
from ephemeroot.hooks.operations.labels import Label
from ephemeroot.hooks.operations.machine_id import MachineId
from ephemeroot.hooks.operations.overlays import Overlay
from ephemeroot.hooks.operations.volumes import Attach, Store
from ephemeroot.hooks.plan import PERSIST_STAGE, WIPE_STAGE, Plan
from ephemeroot.hooks.store import renames, request
from ephemeroot.leave import completion, leaving
from ephemeroot.linux.values import REQUIRED
from ephemeroot.machine.facts import read_store_id
from ephemeroot.plan import stores
from ephemeroot.status import boot_report
from image_plans import volume, wipe
from machine_tree import MAIN, SOUND, MachineTree
from proof import pairs, sample

CODES = (0, 1, 2, 3, 10)
"""The documented exit codes of `ephemeroot`."""
SECONDS = 300
"""A reader that takes longer waits for an event that never comes."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.fixture(autouse=True)
def _no_reader_waits() -> Iterator[None]:
    """A reader that blocks, for example on a fifo, fails instead of waiting."""

    def late(number: int, frame: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def answers(call: Callable[[], object], *errors: type[Exception]) -> object:
    """The result of *call*, or the error, which must be one of *errors*."""
    try:
        return call()
    except errors as error:
        return error


# TOML


def _odd_toml() -> list[str]:
    deep = 300
    return [
        "9" * 5000, "-" + "9" * 5000, "0x" + "f" * 5000, "0o" + "7" * 6000, "0b" + "1" * 20000,
        "9223372036854775808", "-9223372036854775809", "[" * 3000, "[" * 3000 + "]" * 3000,
        "[" * deep + "]" * deep, "{ a = " * deep + "1" + " }" * deep, "{ a = " * 3000, "inf", "nan",
        "-0.0", "1e400", "1979-05-27T07:32:00Z", "07:32:00", "9999-99-99", '""', '"\\u0000"',
        '"\\ud800"', '"\\U0010ffff"', '"' + "x" * 100_000 + '"', "'''\n\n'''", '"/"', '"/.."',
        "true", '"10%"', '"' + "9" * 5000 + '%"', '"' + "9" * 5000 + 's"', '"' + "9" * 5000 + 'G"',
        "[]", "{}", "[{}]", '[""]', '["\\u0000"]', "[1]", "[[]]", '{ "" = 1 }', "\0", "\x7f", "",
    ]  # fmt: skip


ODD_TOML = _odd_toml()


def declared(table: settings.Table, path: str = "") -> Iterator[tuple[str, str]]:
    """The header and the key of every existing setting."""
    for setting in table.settings:
        yield path, setting.name
        kind, inner = setting.kind, f"{path}.{setting.name}".lstrip(".")
        if isinstance(kind, settings.Table):
            yield from declared(kind, inner)
        elif isinstance(kind, settings.Named):
            yield from declared(kind.table, f'{inner}."/persistent"')
        elif isinstance(kind, settings.Listed):
            yield from declared(kind.table, f"[{inner}]")


def keys() -> list[tuple[str, str]]:
    """The header and the name of each declared key, and of some undeclared ones."""
    root = settings.Table(tuple(s for s in settings.ROOT.settings))
    found = [*declared(settings.TOP), *(("root", name) for name in root.names())]
    return [*found, *(("root.btrfs", name) for name in ("keep-days", "base", "min-free"))]


STRUCTURES = [
    "x = " + "[" * 3000,
    "a." * 3000 + "b = 1",
    "a." * 500_000 + "b = 1",
    '"a".' * 250_000 + "b = 1",
    "[" + ".".join("a" * 3000) + "]",
    "[[" + ".".join("a" * 3000) + "]]",
    "[" + ".".join(f'"{n}"' for n in range(40)) + "]",
    "[[a]]\n" * 20_000,
    "".join(f"k{n} = 1\n" for n in range(20_000)),
    "a" * 1_000_000,
    "#" * 1_000_000,
    "\n" * 1_000_000,
    '"' * 200_000,
    "x = [\n" + "1,\n" * 50_000 + "]",
    SOUND + "#" * toml.LARGEST,
    "\ufeff" + SOUND,
    SOUND.replace("\n", "\r\n"),
    SOUND.replace("\n", "\r"),
]


def check_toml(content: bytes) -> None:
    proof.record("document for a reader: configuration", 1)
    try:
        document, text = toml.parse(content)
    except toml.SyntaxMistake:
        return
    for path in odd_values.places(document):
        assert len(path) <= 2 * toml.DEEPEST
    lines.locate(text)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> MachineTree:
    return MachineTree(tmp_path_factory.mktemp("machine"), SOUND)


def check_verbs(tree: MachineTree, content: bytes) -> None:
    """`check` and `plan` exit with a documented code, whatever the main file contains."""
    signal.alarm(SECONDS)
    proof.record("document for a reader: configuration", 1)
    (tree.path / MAIN).write_bytes(content)
    for verb in ("check", "plan"):
        assert cli.main([verb, "--root", str(tree.path)]) in CODES


def test_each_key_with_each_unusual_value(tree: MachineTree) -> None:
    assert len(keys()) * len(ODD_TOML) > 2000
    for (header, key), value in pairs(keys(), ODD_TOML):
        line = f"[{header}]\n" if header else ""
        text = f"{line}{key} = {value}\n"
        check_verbs(tree, text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("index", range(len(STRUCTURES)))
def test_large_and_deeply_nested_documents(tree: MachineTree, index: int) -> None:
    content = STRUCTURES[index].encode()
    check_toml(content)
    check_verbs(tree, content)


@given(st.binary(max_size=400))
@example(b"\xff\xfe")
@example(b"x = '\0'")
@example(b"\xed\xa0\x80 = 1")
def test_any_bytes_as_toml(content: bytes) -> None:
    check_toml(content)


@given(
    st.lists(
        st.sampled_from([*"[]{}=.,#\"'\n\t \\", '"""', "'''", "a", "root", "1", "-", "\r\n", "é"])
        | st.sampled_from(SOUND.splitlines(keepends=True)),
        max_size=60,
    )
)
def test_any_fragments_of_toml(pieces: list[str]) -> None:
    check_toml("".join(pieces).encode())
    answers(lambda: drop_in.parse("".join(pieces)))


@given(st.integers(0, len(SOUND) - 1), st.integers(0, 40), st.text(max_size=5))
def test_a_valid_document_with_one_change(start: int, length: int, text: str) -> None:
    check_toml((SOUND[:start] + text + SOUND[start + length :]).encode("utf-8", "surrogatepass"))


def test_a_mistake_is_reported_with_its_file_and_exits_with_2(
    tree: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    for value, said in (
        ("9" * 5000, "does not fit into 64 bits"),
        ("[" * 3000, "is nested more than 32 levels deep"),
        ("0x" + "f" * 5000, "does not fit into 64 bits"),
    ):
        (tree.path / MAIN).write_text(f"x = {value}\n")
        assert cli.main(["check", "--root", str(tree.path)]) == 2
        complaint = capsys.readouterr().out
        assert f"{MAIN}:" in complaint
        assert said in complaint


# Plans


def rich_plan() -> Plan:
    """One operation of each kind."""
    return Plan(
        wipe=[
            volume(), Store(path="/persistent", volume="persistent", id="an-id"), wipe(),
        ],
        persist=[
            Attach(mount_point="/persistent", volume="persistent"),
            Parent(path="/var", store="/persistent", source="var"),
            Directory(path="/var/log", store="/persistent", source="var/log"),
            File(path="/etc/hostname", store="/persistent", source="etc/hostname"),
            Copy(path="/etc/shadow", store="/persistent", source="etc/shadow"),
            Overlay(path="/opt", store="/persistent", source="opt"),
            MachineId(store="/persistent"),
            Hide(paths=["/var/log"]),
            Label(
                directories={"/var/log": "a:b:c"}, files={"/etc/x": "a:b:c"},
                links={"/etc/x": "a:b:c"}, records="a:b:c",
            ),
        ],
        generation=7,
    )  # fmt: skip


def with_checksum(content: Any) -> bytes:
    """*content* as a plan with a correct checksum, if it can be written as one."""
    if not isinstance(content, dict):
        return odd_values.write(content)
    return odd_values.write(content | {"checksum": plans._checksum(content)})


def check_plan(raw: bytes, root: Path | None = None) -> None:
    proof.record("document for a reader: plan", 1)
    signal.alarm(SECONDS)
    found = answers(lambda: plans.parse(raw), Damaged)
    if isinstance(found, Plan):
        for operation in (*found.wipe, *found.persist):
            answers(operation.describe, Damaged)
        assert plans.parse(found.dump()).dump() == found.dump()
        assert found.mode in (0o600, 0o644)
    if root is not None:
        (root / "etc/ephemeroot/plan.json").write_bytes(raw)
        for words in (["status"], ["apply", "--dry-run", "--no-images"], ["roots", "list"],
                      ["leave", "--dry-run", "--no-images"], ["next-boot"]):  # fmt: skip
            assert cli.main([*words, "--root", str(root)]) in CODES, words


def test_a_plan_with_one_unusual_value(tmp_path: Path) -> None:
    whole = rich_plan().to_json()
    table = list(odd_values.variants(whole))
    assert len(table) > 2000
    for content in sample(table, 300):
        check_plan(with_checksum(content))
    root = MachineTree(tmp_path, SOUND).path
    for content in sample(table, 25, seed=1):
        check_plan(with_checksum(content), root)


def test_each_kind_of_operation_is_in_the_rich_plan() -> None:
    kinds_here = {type(o).KIND for o in (*rich_plan().wipe, *rich_plan().persist)}
    assert {*WIPE_STAGE, *PERSIST_STAGE} - kinds_here == {"network"}


@pytest.mark.parametrize("kind", [*WIPE_STAGE.values(), *PERSIST_STAGE.values()])
@given(data=st.data())
def test_an_operation_of_any_fields(kind: type[Operation], data: st.DataObject) -> None:
    required = [field.name for field in kind.FIELDS if field.default is REQUIRED]
    keys = st.sampled_from([*(field.name for field in kind.FIELDS), *odd_values.KEYS])
    values: dict[str, Any] = data.draw(st.dictionaries(keys, st.sampled_from(odd_values.ODD)))
    values = dict.fromkeys(required, "/x") | values
    raw = with_checksum(
        {
            "format": plans.FORMAT, "version": plans.VERSION, "generation": 1,
            "wipe": [{"operation": kind.KIND} | values] if kind.KIND in WIPE_STAGE else [],
            "persist": [{"operation": kind.KIND} | values] if kind.KIND in PERSIST_STAGE else [],
        }
    )  # fmt: skip
    check_plan(raw)


@pytest.mark.parametrize("key", odd_values.KEYS)
def test_an_unknown_field_in_a_plan_is_damage(key: str) -> None:
    content: Any = rich_plan().to_json()
    content["persist"][2] |= {key: "x"}
    with pytest.raises(Damaged, match="unknown"):
        plans.parse(with_checksum(content))


@given(odd_values.anything())
@example(odd_values.DEEP)
@example({"format": plans.FORMAT, "version": plans.VERSION, "wipe": odd_values.DEEP})
def test_any_document_as_a_plan(document: Any) -> None:
    check_plan(odd_values.write(document))


# Records


def _stores_generation(path: Path) -> object:
    return stores.generation(path)


class Form:
    """One kind of record: its path, valid content, and its reader."""

    def __init__(
        self, name: str, sound: Any, read: Callable[[Path], object], *errors: type[Exception]
    ) -> None:
        self.name = name
        self.sound = sound
        self.read = read
        self.errors = (*errors, OSError)


def _marker(root: Path) -> object:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return records.read_marker(fd, "/persistent")
    finally:
        os.close(fd)


def _base_record(root: Path) -> object:
    record = base_record.Record.__new__(base_record.Record)
    record.folder, record.name = root, "record"
    return record._read()


def _commit(root: Path) -> object:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return renames._read_commit(fd)
    finally:
        os.close(fd)


def _status(root: Path) -> object:
    return cli.main(["status", "--root", str(root)]) in CODES or AssertionError()


STAGE = {
    "boot-id": BOOT_ID, "stage": "wipe", "result": "done", "seconds": 1.5, "started": 2.5,
    "operations": [{"operation": "directory", "line": "bind x", "result": "bound", "seconds": 0.1}],
    "problems": [{"problem": "x", "hint": "y"}], "policy": "keep",
    "wiped /": {"wiper": "btrfs", "retired": "x", "pruned": ["a"], "kept": ["b"]},
}  # fmt: skip
REPORT = {"format": "ephemeroot-boot", "version": 1, "wipe": STAGE, "persist": STAGE}
WIPED = {
    "boot-id": BOOT_ID,
    "/": {"wiper": "btrfs", "target": "/", "attribute": "x:y", "settings": {}, "retired": None,
          "fresh": {"uuid": "x"}},
}  # fmt: skip
FORMS = [
    Form(".ephemeroot-store", {"version": 1, "id": "x", "path": "/p"}, _marker, StoreMissing),
    Form(".ephemeroot-store", {"version": 1, "id": "x", "path": "/p"},
         lambda root: read_store_id(str(root)), Damaged),
    Form(".ephemeroot/generation", 7, _stores_generation, Damaged),
    Form("next-boot", {"format": request.FORMAT, "version": 1, "request": "root", "root": "x"},
         lambda root: request.parse((root / "next-boot").read_bytes()), Damaged),
    Form("run/ephemeroot/boot.json", REPORT, boot_report.read, Damaged),
    Form("run/ephemeroot/boot.json", REPORT, _status),
    Form("run/ephemeroot/wiped", WIPED,
         lambda root: boot_complete._made_fresh(root / "run/ephemeroot/wiped"), EphemerootError),
    Form("copies", {"boot-id": BOOT_ID, "files": [{"path": "/a", "store": "/s", "source": "a"}],
                    "stores": {"/s": "id"}, "limit": 5},
         lambda root: copyback._recorded(root / "copies"), Damaged),
    Form(leaving.RECORD.lstrip("/"),
         {"format": leaving.FORMAT, "version": leaving.VERSION, "since": 5,
          "plan": rich_plan().dump().decode()}, completion.read, Damaged),
    Form("home", {"format": home_record.FORMAT, "version": home_record.VERSION,
                  "mounts": [{"target": "/h/a", "source": "/s", "boot": "b", "device": "d",
                              "fsname": "f"}],
                  "links": [{"target": "/h/b", "source": "/s"}],
                  "directories": [{"path": "/h/c", "inode": 5}]},
         lambda root: home_record.parse((root / "home").read_bytes(), "home", "/h"), Damaged),
    Form("record.json", {"version": 1, "base": "x", "saved": ["/boot"]}, _base_record, Damaged),
    Form("commit", [["a", "b"]], _commit),
]  # fmt: skip
NAMES = [f"{number}-{form.name}" for number, form in enumerate(FORMS)]


def put(root: Path, name: str, content: bytes) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_a_record_with_one_unusual_value(form: Form, tmp_path: Path) -> None:
    put(tmp_path, form.name, odd_values.write(form.sound))
    form.read(tmp_path)
    table = list(odd_values.variants(form.sound))
    for content in sample(table, 200):
        proof.record("document for a reader: records", 1)
        put(tmp_path, form.name, odd_values.write(content))
        answers(lambda: form.read(tmp_path), *form.errors)


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
@given(content=st.binary(max_size=200) | odd_values.anything().map(odd_values.write))
@example(content=b"[" * 4000)
@example(content=b"9" * 4096)
@example(content=b"\0" * 512)
@example(content=b"\xff\xfe\x00")
@example(content=b"")
def test_a_record_of_any_bytes(
    form: Form, content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.getbasetemp() / f"record{FORMS.index(form)}"
    proof.record("document for a reader: records", 1)
    put(root, form.name, content)
    answers(lambda: form.read(root), *form.errors)


# The kernel command line


@given(st.text() | st.lists(st.sampled_from([
    "ephemeroot", "ephemeroot.wipe", "=", "no", " ", '"', "root", "rootflags", "subvol=", ",", "-",
    "_", "ephemeroot.root", "resume", "resume_offset", "9" * 5000, "\n", "\0", "\udcff",
    "subvolid=5",
])).map("".join))  # fmt: skip
def test_any_command_line(text: str) -> None:
    line = CommandLine(text)
    for key in ("ephemeroot", "ephemeroot.wipe", "ephemeroot.persist"):
        answers(lambda key=key: line.allows(key), Refused)  # type: ignore[misc]
        line.is_off(key)
    line.problems(), line.policy(), line.root_device(), line.root_flags(), line.unknown()
    answers(line.root_subvolume, Refused)
    answers(lambda: resume._named(line), Refused)


@pytest.mark.parametrize("offset", ["-1", "-9" * 20, "9" * 30, "9" * 4000, "9" * 5000, "x", ""])
def test_any_offset_of_a_hibernation_image(offset: str) -> None:
    line = CommandLine(f"resume=/dev/zero resume_offset={offset}")
    with pytest.raises(Refused):
        resume.require_none_pending(line)


# Another file type in place of a file


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        folder = os.open(path.parent, os.O_RDONLY)
        made.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)


def _large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


INSTEAD: dict[str, Callable[[Path], object]] = {
    "directory": Path.mkdir,
    "fifo": _fifo,
    "device": _device,
    "socket": _socket,
    "large": _large,
    "dangling": lambda path: path.symlink_to("nowhere"),
    "itself": lambda path: path.symlink_to(path.name),
    "below a file": lambda path: path.symlink_to("/proc/self/status/x"),
    "empty": Path.touch,
    "nul": lambda path: path.write_bytes(b"\0" * 600),
    "not utf-8": lambda path: path.write_bytes(b"\xff\xfe\xed\xa0\x80\n"),
}
FILES = (
    MAIN, "etc/ephemeroot/conf.d/50-x.toml", "etc/ephemeroot/conf.d", "etc/ephemeroot/plan.json",
    "persistent/.ephemeroot-store", "persistent/.ephemeroot", "persistent/.ephemeroot/generation",
    "persistent/.ephemeroot/next-boot", "persistent/.ephemeroot/plan.json", "etc/passwd",
    "etc/group", "etc/fstab", "etc/hostname", "etc/machine-id", "etc/kernel/cmdline",
    "etc/os-release",
    "run/ephemeroot/boot.json", "run/ephemeroot/wiped", "run/ephemeroot/plan.json",
    ".ephemeroot/leaving.json", "etc/selinux/config",
)  # fmt: skip
VERBS = (
    ["check"], ["check", "--json"], ["plan"], ["plan", "--json"], ["status"], ["status", "--json"],
    ["apply", "--dry-run", "--no-images"], ["next-boot"], ["next-boot", "keep", "--dry-run"],
    ["leave", "--dry-run", "--no-images"], ["leave", "--finish"], ["roots", "list"],
    ["adopt", "--dry-run", "/var"], ["diff"], ["init"], ["base", "list"],
)  # fmt: skip


@pytest.mark.requires_root
def test_another_file_type_in_place_of_each_file(tmp_path: Path) -> None:
    damages = list(itertools.product(FILES, INSTEAD))
    for number, ((file, kind), verb) in enumerate(pairs(damages, VERBS)):
        root = tmp_path / f"{number}"
        MachineTree(root, SOUND).write("etc/ephemeroot/plan.json", rich_plan().dump().decode())
        for name, content in (("boot.json", REPORT), ("wiped", WIPED)):
            put(root, f"run/ephemeroot/{name}", odd_values.write(content))
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            path.rename(root / "away")
        path.unlink(missing_ok=True)
        INSTEAD[kind](path)
        signal.alarm(SECONDS)
        code = cli.main([*verb, "--root", str(root)])
        assert code in CODES, f"{kind} as {file}: {' '.join(verb)}"
        if (root / file).is_fifo():
            (root / file).unlink()  # removing the directory does not wait for the fifo either
