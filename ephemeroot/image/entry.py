"""The program that ``boot`` runs in the initramfs, the only module that is run by its path.

    boot.pyc wipe|persist …     run the stage, see ephemeroot.hooks
    boot.pyc verify             load all packed modules and the plan, and print a confirmation

The program and the modules of the standard library that it needs are in one file beside this one,
the bundle (``bundle`` writes it). It is read once, and its checksum is verified before any of its
code runs. Other projects' libraries and extension modules are files in this folder.

All modules of the program exist from the start, and the code of each runs at the first access to
one of its attributes. So a boot runs only the code that its plan needs, and does without the import
system, which takes as long as the code.
"""

from __future__ import annotations

import gc
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER
from binascii import crc32
from marshal import loads
from posix import _exit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType
else:
    ModuleType = type(sys)

FOLDER = __file__.rpartition("/")[0]

NAME = "bundle"
"""The bundle's file name. The file is ``MAGIC``, three numbers of 4 bytes (little endian: the magic
number of the interpreter's byte code, the CRC-32 of everything after it, the length of the index),
the index, and the code, both marshalled.
"""

OWN = "ephemeroot"
"""The package whose modules exist from the start."""

MAGIC = b"ephemeroot bundle 1\n"
_CHECKED = len(MAGIC) + 8
_INDEX = len(MAGIC) + 12

POSITIVE = "ephemeroot-verified"
BUG = 70
"""The exit status of ephemeroot.hooks.__main__, which may not be importable."""


class BundleError(Exception):
    """The bundle cannot be used: it is damaged, or for another interpreter."""


class Waiting(ModuleType):
    """A module of the program whose code has not run yet."""

    def __getattr__(self, name: str) -> object:
        """Run the code, which makes this an ordinary module, and return the attribute."""
        bundle: Bundle = self.__dict__["__loader__"]
        self.__class__ = ModuleType  # type: ignore[assignment]  # as importlib.util.LazyLoader does
        try:
            exec(bundle.get_code(self.__name__), self.__dict__)  # as an import does
        except BaseException:
            self.__class__ = Waiting
            raise
        return getattr(self, name)


class Bundle:
    """Finds and loads the modules of a bundle (``importlib.abc.MetaPathFinder`` and ``Loader``).

    ``index`` maps the name of each module to the name of its file, whether it is a package, and the
    start and end of its code. Raises ``BundleError``.
    """

    __slots__ = ("_code", "_plan", "index")

    def __init__(self, data: bytes) -> None:
        require_sound(data)
        if data[len(MAGIC) : len(MAGIC) + 4] != MAGIC_NUMBER:
            raise BundleError("it was made for another version of Python")
        code = _INDEX + int.from_bytes(data[_CHECKED:_INDEX], "little")
        self.index: dict[str, tuple[str, bool, int, int]]
        self._plan: tuple[bytes, int, int]
        self.index, self._plan = loads(data[_INDEX:code])
        self._code = memoryview(data)[code:]

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The import system's description of the module *name*; ``None`` if it is not here."""
        if name not in self.index:
            return None
        file, package, _, _ = self.index[name]
        spec = ModuleSpec(name, self, origin=file, is_package=package)  # type: ignore[arg-type]
        if package:
            # Extension modules of the package are files in that folder.
            spec.submodule_search_locations = [file.rpartition("/")[0]]
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """Have the interpreter create the module."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code in it."""
        name = module.__name__
        module.__file__ = self.index[name][0]
        exec(self.get_code(name), module.__dict__)

    def add_own(self) -> None:
        """Create all modules of the program, without running their code."""
        found: dict[str, ModuleType] = {}
        for name, (file, package, _, _) in self.index.items():  # sorted: a package comes first
            above, _, last = name.rpartition(".")
            if above not in found and name != OWN:
                continue
            module = found[name] = Waiting(name)
            content = module.__dict__
            content["__file__"] = file
            content["__loader__"] = self
            content["__package__"] = name if package else above
            if package:
                content["__path__"] = [file.rpartition("/")[0]]
            if above:
                found[above].__dict__[last] = module
        sys.modules.update(found)

    def plan(self, raw: bytes) -> dict[str, object] | None:
        """The document in *raw* if it is the plan of the bundle, which was validated when the
        bundle was made; else ``None``.
        """
        packed, start, end = self._plan
        if identity(raw) != packed:
            return None
        content: dict[str, object] = loads(self._code[start:end])
        return content

    def get_code(self, name: str) -> CodeType:
        """The code of the module *name*."""
        _, _, start, end = self.index[name]
        code: CodeType = loads(self._code[start:end])
        return code


def require_sound(data: bytes) -> None:
    """Raise ``BundleError`` unless *data* is a whole bundle, for any interpreter."""
    if data[: len(MAGIC)] != MAGIC:
        raise BundleError("it is not a bundle of this version")
    if checksum(memoryview(data)[_CHECKED:]) != data[_CHECKED - 4 : _CHECKED]:
        raise BundleError("its checksum does not match")


def checksum(content: bytes | memoryview) -> bytes:
    """The CRC-32 of *content*, against damage."""
    return crc32(content).to_bytes(4, "little")


def identity(raw: bytes) -> bytes:
    """An identifier of the plan *raw*, 12 bytes."""
    return len(raw).to_bytes(8, "little") + checksum(raw)


def load(folder: str = FOLDER) -> Bundle:
    """Make the modules of the bundle in *folder* importable before all others, and the files in
    *folder* after them. Raises ``BundleError``, ``OSError``.
    """
    with open(f"{folder}/{NAME}", "rb", 0) as file:
        bundle = Bundle(file.read())
    sys.meta_path.insert(0, bundle)
    bundle.add_own()
    sys.path.insert(0, folder)
    return bundle


def verify(bundle: Bundle) -> int:
    """Import every packed module, load the plan and its wipers, and print ``POSITIVE``.

    The word proves that the program ran, unlike an exit status of 0.
    """
    with open(f"{FOLDER}/exercise", encoding="utf-8") as lines:
        calls = lines.read().split()
    with open(f"{FOLDER}/modules", encoding="utf-8") as lines:
        names = lines.read().split()
    if "pyudev" in names:
        from ephemeroot.linux import udev

        udev.load()  # pyudev cannot be imported in any other way here
    # Before the imports: some libraries can be imported only after such a call.
    for call in calls:
        module, _, function = call.partition(":")
        __import__(module)
        getattr(sys.modules[module], function)()
    for name in [*bundle.index, *names]:
        __import__(name)
        hasattr(sys.modules[name], "")  # runs the code of a ``Waiting`` module
    from ephemeroot.hooks import plan as plans

    with open(f"{FOLDER}/plan.json", "rb") as file:
        raw = file.read()
    plan = plans.parse(raw, f"{FOLDER}/plan.json")
    if plans.load(f"{FOLDER}/plan.json", bundle.plan).dump() != raw:
        raise BundleError("its plan differs from the image's plan")
    for wipe in plan.wipes():
        wipe.load()
    sys.stdout.write(f"{POSITIVE} {len(names)} {plan.generation}\n")
    return 0


def main(arguments: list[str]) -> int:
    """Run a stage, or ``verify``."""
    try:
        bundle = load()
    except (BundleError, OSError) as error:
        sys.stderr.write(
            f"ephemeroot: the boot code {FOLDER}/{NAME} cannot be used: {error} "
            "(boot with ephemeroot=no and run 'ephemeroot apply')\n"
        )
        return BUG
    if arguments == ["verify"]:
        return verify(bundle)
    try:
        from ephemeroot.hooks.__main__ import main as stage

        return stage(arguments, bundle.plan)
    except Exception:  # noqa: BLE001  # an incomplete image: the policy in `boot` decides
        sys.excepthook(*sys.exc_info())
        return BUG


if __name__ == "__main__":
    # All objects of a stage are in use until its end, so a garbage collection costs time and frees
    # no memory. The garbage of a large tree is still collected.
    gc.set_threshold(100_000)
    status = main(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError):  # closed from the start, or without a reader
            continue
    # Without finalising the interpreter, which takes longer than most operations.
    _exit(status)
