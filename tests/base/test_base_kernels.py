"""Every kernel that can boot must find its modules, whatever its format and name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import kernel_images
from ephemeroot.base.boot_kernels import Area, Check
from ephemeroot.errors import EphemerootError, Refused

OLD, NEW, ALIEN = "6.12.1-old", "6.18.2-new", "5.10.0-another-system"
NAMES = ("vmlinuz-linux", "vmlinuz", "vmlinuz-6.6.6-not-this-one", "{token}/{release}/linux",
         "EFI/Linux/os.efi", "Image")  # fmt: skip

pytestmark = pytest.mark.requires_program("zstd")


class Machine:
    """A tree with modules, and a saved boot filesystem."""

    def __init__(self, folder: Path) -> None:
        self.tree, self.boot, self.saved = (folder / name for name in ("tree", "boot", "saved"))
        for path in (self.tree / "usr/lib/modules", self.boot):
            path.mkdir(parents=True)
        (self.tree / "lib").symlink_to("usr/lib")
        self.said: list[str] = []
        self.asked: list[tuple[str, str]] = []

    def modules(self, release: str) -> None:
        (self.tree / "usr/lib/modules" / release).mkdir()

    def remove_modules(self, release: str) -> None:
        (self.tree / "usr/lib/modules" / release).rmdir()

    def kernel(self, name: str, release: str, kind: str = "bzimage") -> str:
        path = self.boot / name.format(token="a1b2", release=release)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(kernel_images.FORMATS[kind](release))
        return str(Path("/boot", path.relative_to(self.boot)))

    def begin(self) -> Check:
        shutil.copytree(self.boot, self.saved)
        check = Check(self.said.append, lambda *words: self.asked.append(words))
        check.begin(self.open())
        return check

    def open(self) -> int:
        return os.open(self.tree, os.O_RDONLY | os.O_DIRECTORY)

    def require(self, check: Check) -> None:
        check.require(self.open(), [Area("/boot", self.boot, self.saved)])


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.modules(OLD)
    return made


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", kernel_images.FORMATS)
def test_refuses_a_new_kernel_without_modules(machine: Machine, kind: str, name: str) -> None:
    check = machine.begin()
    shown = machine.kernel(name, NEW, kind)
    with pytest.raises(Refused, match="would find no modules in the new base") as caught:
        machine.require(check)
    assert (shown in caught.value.message, NEW in caught.value.message) == (True, True)
    machine.modules(NEW)
    machine.require(check)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", kernel_images.FORMATS)
def test_refuses_to_remove_the_modules_of_a_kernel_that_still_boots(
    machine: Machine, kind: str, name: str
) -> None:
    shown = machine.kernel(name, OLD, kind)
    check = machine.begin()
    machine.modules(NEW)
    machine.remove_modules(OLD)
    with pytest.raises(Refused, match="would find no modules in the new base") as caught:
        machine.require(check)
    assert (shown in caught.value.message, OLD in caught.value.message) == (True, True)
    (machine.boot / Path(shown).relative_to("/boot")).unlink()
    machine.require(check)


def test_only_names_a_kernel_that_had_no_modules_before(machine: Machine) -> None:
    shown = machine.kernel("vmlinuz-0-rescue-a1b2", ALIEN)
    check = machine.begin()
    machine.require(check)
    assert [ALIEN in line and shown in line for line in machine.said] == [True]


def test_names_a_kernel_that_cannot_be_read_and_asks(machine: Machine) -> None:
    check = machine.begin()
    (machine.boot / "vmlinuz-linux").write_bytes(b"\xa5" * 0x10000)
    machine.require(check)
    ((message, hint),) = machine.asked
    assert message.startswith("cannot read the kernel release of /boot/vmlinuz-linux: ")
    assert "/boot/vmlinuz-linux" in hint


def test_asks_about_an_existing_unreadable_kernel_only_if_modules_were_removed(
    machine: Machine,
) -> None:
    (machine.boot / "vmlinuz-linux").write_bytes(b"\xa5" * 0x10000)
    check = machine.begin()
    machine.modules(NEW)
    machine.require(check)
    assert (len(machine.said), machine.asked) == (1, [])
    machine.remove_modules(OLD)
    machine.require(check)
    assert len(machine.asked) == 1


def test_the_answer_no_aborts(machine: Machine) -> None:
    def no(message: str, hint: str) -> None:
        raise EphemerootError("nothing was changed")

    check = machine.begin()
    check.ask = no
    (machine.boot / "vmlinuz-linux").write_bytes(b"\xa5" * 0x10000)
    with pytest.raises(EphemerootError, match="nothing was changed"):
        machine.require(check)


def test_a_base_without_modules_requires_none(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    check = machine.begin()
    machine.kernel("vmlinuz-linux", NEW)
    machine.require(check)
    assert machine.said == []
