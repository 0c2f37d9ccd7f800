"""A machine with declared paths inside declared directories, over several boots.

Root, base and two stores are subvolumes of one btrfs; the plan is compiled from a configuration and
the real stages follow it. Each cell of a table has its own paths, so that one machine serves all of
them.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import btrfsutil

from btrfs_image import DEFAULTS, fresh_disk
from complete_boot import mark_boot_complete
from ephemeroot import cli
from ephemeroot.config import Machine, Problem, examine, read
from ephemeroot.hooks.__main__ import main
from ephemeroot.hooks.store.copyback import CopyBack, Recorded
from ephemeroot.plan.compile import compile_machine
from ephemeroot.wipers.btrfs import Btrfs

STORES = ("/one", "/two")
OUTER = ("bind", "overlay", "symlink")
INNER = (
    ("directory", "bind"), ("directory", "overlay"), ("directory", "symlink"),
    ("file", "bind"), ("file", "symlink"), ("file", "copy"), ("file", "auto"),
)  # fmt: skip
BOOTS = 5


@dataclass(frozen=True)
class Cell:
    """One pair of declarations: a directory, and in it a directory or file.

    ``base``, ``store`` and ``outgoing`` say where the inner path has content before the first boot
    with the declarations, ``deep`` whether a directory is between the two, and ``reverse`` whether
    the inner one is declared first.
    """

    outer: str
    kind: str
    inner: str
    two_stores: bool
    base: bool
    store: bool
    outgoing: bool
    deep: bool
    reverse: bool
    number: int = field(default=0, compare=False)

    @property
    def outer_path(self) -> str:
        return f"/nest/{self.number:04}"

    @property
    def path(self) -> str:
        return f"{self.outer_path}/{'between/' * self.deep}inner"

    @property
    def stores(self) -> tuple[str, str]:
        """The stores of the outer and of the inner path."""
        first, second = reversed(STORES) if self.reverse else STORES
        return (first, second) if self.two_stores else (first, first)

    @property
    def is_directory(self) -> bool:
        return self.kind == "directory"

    def file(self, name: str) -> str:
        """The path of the cell's content *name*: in the directory, or the file itself."""
        return f"{self.path}/{name}" if self.is_directory else self.path

    def first_content(self) -> str | None:
        """The content after the first boot; ``None`` for nothing."""
        if self.store:
            return "store"
        # An overlay is not seeded, but the directory that contains it may be.
        if self.outgoing and (self.outer == "bind" or self.inner != "overlay"):
            return "outgoing"
        return "base" if self.base else None


PAIRS = tuple(itertools.product(OUTER, INNER, (False, True)))
"""Outer and inner declaration, and whether they are in two stores."""

SETTINGS = tuple(itertools.product((False, True), repeat=5))
"""Where there is content (base, store, outgoing root), deep, reverse."""


def table() -> list[Cell]:
    """Every pair in every setting."""
    return [_cell(pair, setting) for pair in PAIRS for setting in SETTINGS]


def pairwise() -> list[Cell]:
    """Every pair, in enough settings that it occurs with each value of each, and that every two
    values of a setting occur together.
    """
    everything = [(pair, setting) for pair in PAIRS for setting in SETTINGS]
    wanted = {point for cell in everything for point in _points(*cell)}
    chosen = []
    while wanted:
        best = max(everything, key=lambda cell: len(wanted & _points(*cell)))
        chosen.append(_cell(*best))
        wanted -= _points(*best)
    return chosen


def _points(pair: object, setting: tuple[bool, ...]) -> set[object]:
    numbered = list(enumerate(setting))
    return {(pair, point) for point in numbered} | set(itertools.combinations(numbered, 2))


def _cell(pair: tuple[str, tuple[str, str], bool], setting: tuple[bool, ...]) -> Cell:
    outer, (kind, inner), two_stores = pair
    return Cell(outer, kind, inner, two_stores, *setting)


HEAD = """\
[root]
wiper = "btrfs"
external-boot = true
[root.btrfs]
base = "base"
"""


class NestedMachine:
    """Boots with the *cells*; ``problems`` has the faults, by the cell's number."""

    def __init__(self, folder: Path, loop: str, top: Path, cells: list[Cell]) -> None:
        self.folder = folder
        self.loop = loop
        self.top = top
        self.cells = cells
        self.problems: dict[int, list[str]] = {cell.number: [] for cell in cells}
        self.boots = 0
        self.target = folder / "sysroot"
        self.target.mkdir()
        for name in ("base", "one", "two"):
            btrfsutil.create_subvolume(str(top / name))
        for store in STORES:
            marker = {"version": 1, "id": f"id-of{store.replace('/', '-')}", "path": store}
            (top / store[1:] / ".ephemeroot-store").write_text(json.dumps(marker))
        self._fill_base()
        btrfsutil.create_snapshot(str(top / "base"), str(top / "root"))
        for cell in cells:
            self._put(cell)
        self._write_configuration(top / "root/etc/ephemeroot/ephemeroot.toml")

    def _fill_base(self) -> None:
        base = self.top / "base"
        for name in ("etc/ephemeroot", "etc/kernel", "sbin", "usr/lib", "var/log", "one", "two"):
            (base / name).mkdir(parents=True)
        (base / "usr/lib/os-release").write_text("ID=test\n")
        (base / "sbin/init").write_text("#!/bin/sh\n")
        (base / "sbin/init").chmod(0o755)
        (base / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
        (base / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
        (base / "etc/group").write_text("root:x:0:\n")
        (base / "etc/fstab").write_text(f"{self.loop} / btrfs subvol=root 0 0\n")

    def _put(self, cell: Cell) -> None:
        places = {
            "base": (cell.base, self.top / "base"),
            "outgoing": (cell.outgoing, self.top / "root"),
            "store": (cell.store, self.top / cell.stores[1][1:]),
        }
        for content, (wanted, top) in places.items():
            if wanted:
                _write(top, cell.file("first"), content)
                if cell.is_directory:
                    _write(top, cell.file("removed"), content)
        if cell.base and not cell.outgoing:
            subprocess.run(["rm", "-rf", self.top / "root" / cell.outer_path[1:]], check=True)

    # The configuration

    @staticmethod
    def _entry(store: str, cell: Cell, *, outer: bool) -> tuple[str, str, str]:
        path, kind, method = cell.path, cell.kind, cell.inner
        if outer:
            path, kind, method = cell.outer_path, "directory", cell.outer
        return store, kind, f'{{ {kind} = "{path}", method = "{method}" }}'

    def _write_configuration(self, path: Path) -> None:
        path.write_text(HEAD + self._volumes() + self.declarations(self.cells))

    def _volumes(self) -> str:
        return "".join(
            f'[[volumes]]\nmount-point = "{store}"\ndevice = "{self.loop}"\ntype = "btrfs"\n'
            f'options = ["subvol={store[1:]}"]\n'
            for store in STORES
        )

    def declarations(self, cells: Sequence[Cell]) -> str:
        """The tables of the stores; an inner path that is declared first is at the beginning."""
        entries: list[tuple[str, str, str]] = []
        for cell in cells:
            outer, inner = cell.stores
            added = [self._entry(outer, cell, outer=True), self._entry(inner, cell, outer=False)]
            entries = [*reversed(added), *entries] if cell.reverse else [*entries, *added]
        text = ""
        for store in STORES:
            listed = {
                kind: [text for where, what, text in entries if (where, what) == (store, kind)]
                for kind in ("directory", "file")
            }
            files = ['"/etc/machine-id"'] if store == "/one" else []
            directories = ['"/var/log"'] if store == "/one" else []
            text += f'[persistence."{store}"]\n'
            text += f"directories = [{', '.join([*directories, *listed['directory']])}]\n"
            text += f"files = [{', '.join([*files, *listed['file']])}]\n"
        return text

    def refusals(self, cell: Cell) -> list[Problem]:
        """The errors that ``check`` reports for this one pair."""
        base = self.top / "base"
        file = base / "etc/ephemeroot/ephemeroot.toml"
        file.write_text(HEAD + self._volumes() + self.declarations([cell]))
        try:
            machine = Machine.of(str(base))
            return examine(read(machine), machine).errors
        finally:
            file.unlink()

    def apply(self) -> None:
        for store in STORES:
            marker = self.top / "root" / store[1:] / ".ephemeroot-store"
            marker.write_text((self.top / store[1:] / ".ephemeroot-store").read_text())
        machine = Machine.of(str(self.top / "root"))
        plan = compile_machine(read(machine), machine).plan
        (self.folder / "plan.json").write_bytes(plan.dump())

    # A boot

    @property
    def run(self) -> Path:
        return self.folder / f"run{self.boots}/ephemeroot"

    def boot(self) -> None:
        self.boots += 1
        self.run.mkdir(parents=True)
        for stage in ("wipe", "persist"):
            code = main([
                stage, "--plan", str(self.folder / "plan.json"), "--target", str(self.target),
                "--run", str(self.run), "--cmdline", f"root={self.loop} rootflags=subvol=root ro",
            ])  # fmt: skip
            assert code in (0, 10), code
            if stage == "wipe":
                words = ["-o", "subvol=root", self.loop]
                subprocess.run(["mount", *words, self.target], check=True)
        self._read_report()
        if self.boots == 1:
            self._excuse()
        assert mark_boot_complete(Btrfs(DEFAULTS | {"base": "base"}), self.target)

    def _read_report(self) -> None:
        report = json.loads((self.run / "boot.json").read_text())
        for stage in ("wipe", "persist"):
            for problem in report[stage]["problems"]:
                self._blame(problem["problem"])

    def _excuse(self) -> None:
        """A file that does not exist yet cannot be bound: the first boot must report that."""
        for cell in self.cells:
            if (cell.inner, cell.is_directory, cell.first_content()) == ("bind", False, None):
                found = self.problems[cell.number]
                expected = [text for text in found if "cannot be bound: " in text]
                # In the directory's own store it needs no bind.
                if len(expected) == cell.two_stores:
                    self.problems[cell.number] = [t for t in found if t not in expected]

    def _blame(self, text: str) -> None:
        blamed = [c for c in self.cells if f"{c.outer_path}/" in f"{text} /".replace(" ", "/ ")]
        assert blamed, text
        for cell in blamed:
            self.problems[cell.number].append(f"boot {self.boots}: {text}")

    def complain(self, cell: Cell, text: str) -> None:
        self.problems[cell.number].append(f"boot {self.boots}: {text}")

    def switch_off(self, *, copy_back: bool) -> None:
        """The power fails, or the machine is shut down in order."""
        if copy_back:
            record = json.loads((self.run / "copies").read_text())
            problems: list[str] = []
            stores = Recorded(record["files"], record["stores"], record["limit"]).open_stores(
                str(self.target), problems
            )
            root = os.open(self.target, os.O_RDONLY | os.O_DIRECTORY)
            back = CopyBack(record["files"], stores, root, record["limit"])
            back.run()
            for fd in (root, *stores.values()):
                os.close(fd)
            for problem in [*problems, *back.problems]:
                self._blame(problem)
        subprocess.run(["umount", "-R", "-l", self.target], check=True)

    def unmount(self) -> None:
        """Unmount everything that a failure has left mounted."""
        for place in (self.target, *self.run.glob("volumes/*")):
            subprocess.run(["umount", "-R", "-l", place], check=False, capture_output=True)

    # Between boots

    def live(self) -> None:
        self.apply()
        for number in range(1, BOOTS + 1):
            self.boot()
            for cell in self.cells:
                self._look(cell, number)
                self._use(cell, number)
            self.switch_off(copy_back=number % 2 == 0)
            if number == 2:
                self._upgrade_base()
        self.boot()
        for cell in self.cells:
            self._look(cell, BOOTS + 1)
        self.switch_off(copy_back=False)

    def _look(self, cell: Cell, number: int) -> None:
        first = cell.first_content()
        if number == 1:
            if first is not None:
                self._expect(cell, "first", first)
            return
        if not cell.is_directory:
            self._expect(cell, "", f"boot {number - 1}")
            return
        if first is not None:
            self._expect(cell, "first", f"boot {number - 1}")
        for before in range(1, number):
            self._expect(cell, f"of {before}", f"boot {before}")
        if os.path.lexists(self._place(cell, "removed")):
            self.complain(cell, "what was removed is back")

    def _expect(self, cell: Cell, name: str, content: str) -> None:
        place = self._place(cell, name)
        try:
            found = place.read_text()
        except OSError as error:
            found = str(error)
        if found != content:
            self.complain(cell, f"{name or 'the file'} is {found!r}, not {content!r}")

    def _use(self, cell: Cell, number: int) -> None:
        """A program writes, in the way for which the method is meant."""
        try:
            if not cell.is_directory:
                self._save(cell, self._place(cell, ""), f"boot {number}")
                return
            if self._place(cell, "first").exists():
                self._place(cell, "first").write_text(f"boot {number}")
            self._place(cell, f"of {number}").write_text(f"boot {number}")
            self._place(cell, "removed").unlink(missing_ok=True)
        except OSError as error:
            self.complain(cell, f"cannot write: {error}")

    @staticmethod
    def _save(cell: Cell, place: Path, text: str) -> None:
        if cell.inner == "copy":
            new = place.with_name("new")
            new.write_text(text)
            new.rename(place)
        else:
            place.write_text(text)

    def _place(self, cell: Cell, name: str) -> Path:
        """The cell's content as the running machine sees it: links lead to the machine's stores."""
        place = self.target / cell.path[1:]
        if place.is_symlink():
            place = self.target / os.readlink(place).lstrip("/")
        return place / name if cell.is_directory else place

    def _upgrade_base(self) -> None:
        """Replace all content of the base with other content, with other times."""
        for cell in self.cells:
            if cell.base:
                _write(self.top / "base", cell.file("first"), "newer base")


def _write(top: Path, path: str, content: str) -> None:
    place = top / path[1:]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(content)


@contextmanager
def declared_machine(folder: Path) -> Iterator[DeclaredMachine]:
    """A ``DeclaredMachine`` on its own disk, for the duration of a `with`."""
    with fresh_disk(folder, 300) as disk:
        machine = DeclaredMachine(folder, disk.loop, disk.top)
        try:
            yield machine
        finally:
            machine.unmount()


class DeclaredMachine(NestedMachine):
    """Gets its declarations from a test, and is applied by the program. The outgoing root is
    mounted.
    """

    declared = ""

    def __init__(self, folder: Path, loop: str, top: Path) -> None:
        super().__init__(folder, loop, top, [])
        (top / "root/etc/kernel/cmdline").write_text(f"root={loop} rootflags=subvol=root ro\n")
        for store in ("one", "two"):
            (top / store / ".ephemeroot-store").unlink()
        self.mount()

    def mount(self) -> None:
        for subvolume, place in (("root", ""), ("one", "one"), ("two", "two")):
            words = ["-o", f"subvol={subvolume}", self.loop, str(self.target / place)]
            subprocess.run(["mount", *words], check=True)

    def declare(self, text: str) -> None:
        self.declared = text
        self._write_configuration(self.target / "etc/ephemeroot/ephemeroot.toml")

    def declarations(self, cells: object) -> str:
        return self.declared

    def apply(self) -> None:
        code = cli.main(["apply", "--yes", "--no-images", "--root", str(self.target)])
        assert code in (0, 10)
        plan = (self.target / "etc/ephemeroot/plan.json").read_bytes()
        (self.folder / "plan.json").write_bytes(plan)

    def next_boot(self) -> None:
        subprocess.run(["umount", "-R", "-l", self.target], check=True)
        self.boot()

    def power_off(self, *, copy_back: bool) -> None:
        """Switch off, and mount nothing."""
        self.switch_off(copy_back=copy_back and (self.run / "copies").exists())

    def report(self, stage: str = "persist") -> dict[str, str]:
        """The result of each operation, by its line."""
        report = json.loads((self.run / "boot.json").read_text())
        return {o["line"]: o["result"] for o in report[stage]["operations"]}

    def _blame(self, text: str) -> None:
        self.problems.setdefault(self.boots, []).append(text)

    def said(self) -> list[str]:
        """The problems of the present boot."""
        return self.problems.get(self.boots, [])


def persistence(*directories: str, name: str = "/one", files: str = "") -> str:
    listed = ", ".join(f'"{path}"' if path[0] == "/" else path for path in directories)
    return f'[persistence."{name}"]\ndirectories = [{listed}]\nfiles = [{files}]\n'


@contextmanager
def nested_machine(folder: Path, cells: list[Cell]) -> Iterator[NestedMachine]:
    with fresh_disk(folder, 600) as disk:
        yield NestedMachine(folder, disk.loop, disk.top, cells)
