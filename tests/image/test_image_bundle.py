"""The boot code as one file: the parts of the modules that it keeps, and the detection of
damage.
"""

from __future__ import annotations

import ast
import inspect
import marshal
import subprocess
from collections.abc import Iterator
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from types import CodeType

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ephemeroot
from ephemeroot.errors import Damaged
from ephemeroot.hooks import plan as plans
from ephemeroot.hooks.operations.directories import Directory, Parent
from ephemeroot.image import bundle, closure, entry
from ephemeroot.image.broken import Broken
from ephemeroot.image.bundle import Source
from image_plans import plan, put_together

PROGRAM = Path(ephemeroot.__path__[0])


class Folder:
    """A folder of an initramfs with the entry point, and a bundle of modules that a test writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bundle = path / entry.NAME
        own = Source("boot", Path(entry.__file__), f"{path}/boot.py", package=False)
        (path / "boot.pyc").write_bytes(bundle.byte_code(own))

    def pack(self, modules: dict[str, str]) -> None:
        sources = []
        for name, text in modules.items():
            package = any(other.startswith(f"{name}.") for other in modules)
            below = name.replace(".", "/") + ("/__init__" if package else "") + ".py"
            source = self.path.parent / "source" / below
            source.parent.mkdir(parents=True, exist_ok=True)
            source.write_text(text)
            sources.append(Source(name, source, f"/usr/lib/ephemeroot/{below}", package))
        self.bundle.write_bytes(bundle.pack(sources, b"{}\n"))

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [closure.interpreter(), "-I", "-S", "-B", self.path / "boot.pyc", *words],
            capture_output=True, text=True, check=False,
        )  # fmt: skip


STAGE = """\
import sys


def main(arguments, plan):
    sys.stdout.write(f"ran {arguments}")
    return 0
"""
PACKED = {
    "ephemeroot": "",
    "ephemeroot.hooks": "from ephemeroot.hooks import other\n",
    "ephemeroot.hooks.other": '"""Documented."""\nVALUE: int = 3\n',
    "ephemeroot.hooks.__main__": STAGE,
}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "boot").mkdir()
    made = Folder(tmp_path / "boot")
    made.pack(PACKED)
    return made


def test_a_stage_runs_from_the_bundle_alone(folder: Folder) -> None:
    done = folder.run("wipe", "--plan", "x")
    assert (done.returncode, done.stdout) == (0, "ran ['wipe', '--plan', 'x']"), done.stderr


def test_the_same_modules_give_the_same_bytes(folder: Folder) -> None:
    before = folder.bundle.read_bytes()
    folder.pack(dict(reversed(PACKED.items())))
    assert folder.bundle.read_bytes() == before


def test_a_traceback_names_file_and_line(folder: Folder) -> None:
    failing = 'import sys\n\n\ndef main(arguments, plan):\n    raise ValueError("so")\n'
    folder.pack(PACKED | {"ephemeroot.hooks.__main__": failing})
    done = folder.run("wipe")
    assert done.returncode == 70
    where = 'File "/usr/lib/ephemeroot/ephemeroot/hooks/__main__.py", line 5, in main'
    assert where in done.stderr
    assert "ValueError: so" in done.stderr


def test_modules_have_the_attributes_that_the_import_system_sets(folder: Folder) -> None:
    asking = """
import sys
import ephemeroot.hooks
from ephemeroot.hooks import other
def main(arguments, plan):
    loader = ephemeroot.__loader__
    sys.stdout.write(repr([
        other.__name__, other.__file__, other.__package__, other.__doc__, other.VALUE,
        ephemeroot.hooks.other is other, ephemeroot.hooks.__path__, loader is other.__loader__,
        sorted(name for name in vars(other) if name in ("annotations", "__annotations__")),
    ]))
    return 0
"""
    folder.pack(PACKED | {"ephemeroot.hooks.__main__": asking})
    done = folder.run("wipe")
    assert done.returncode == 0, done.stderr
    assert ast.literal_eval(done.stdout) == [
        "ephemeroot.hooks.other", "/usr/lib/ephemeroot/ephemeroot/hooks/other.py",
        "ephemeroot.hooks", None, 3, True, ["/usr/lib/ephemeroot/ephemeroot/hooks"], True, [],
    ]  # fmt: skip


def test_modules_outside_the_bundle_are_files_beside_it(folder: Folder) -> None:
    (folder.path / "plug_in.py").write_text("NAME = 'of a file'\n")
    text = "import plug_in, sys\ndef main(words, plan):\n    sys.stdout.write(plug_in.NAME)\n"
    folder.pack(PACKED | {"ephemeroot.hooks.__main__": text})
    assert folder.run("wipe").stdout == "of a file"


def test_a_module_is_executed_when_it_is_first_used(folder: Folder) -> None:
    asking = """
import sys
from ephemeroot.hooks import other, loud
def main(arguments, plan):
    sys.stdout.write("before ")
    sys.stdout.write(f"{loud.VALUE} {loud.VALUE} ")
    sys.stdout.write(f"{type(loud) is type(sys)} {type(other) is type(sys)}")
"""
    loud = 'import sys\nsys.stdout.write("run ")\nVALUE = 7\n'
    folder.pack(PACKED | {"ephemeroot.hooks.__main__": asking, "ephemeroot.hooks.loud": loud})
    assert folder.run("wipe").stdout == "before run 7 7 True False"


def test_a_module_that_fails_fails_at_each_import(folder: Folder) -> None:
    asking = """
import sys
from ephemeroot.hooks import failing
def main(arguments, plan):
    for _ in range(2):
        try:
            failing.VALUE
        except ZeroDivisionError as error:
            sys.stdout.write(f"{error} ")
"""
    modules = {"ephemeroot.hooks.__main__": asking, "ephemeroot.hooks.failing": "VALUE = 1 // 0\n"}
    folder.pack(PACKED | modules)
    said = folder.run("wipe").stdout
    assert said.split() == ["integer", "division", "or", "modulo", "by", "zero"] * 2


EACH_ALONE = """
import sys
sys.path.insert(0, {folder!r})
import boot
first = dict(sys.modules)
bundle = boot.load()
for name in bundle.index:
    sys.modules.clear()
    sys.modules.update(first)
    sys.meta_path.pop(0)
    boot.load()
    module = sys.modules[name] if name in sys.modules else __import__(name)
    hasattr(module, "")
    if name.startswith("ephemeroot"):
        assert type(module) is type(sys), name
print(len(bundle.index))
"""


def test_each_module_can_be_used_first(folder: Folder, tmp_path: Path) -> None:
    """The order in which modules are executed depends on the plan: none may rely on another one
    being first.
    """
    made = put_together(tmp_path / "tree")
    code = EACH_ALONE.format(folder=str(made.tree.top / "usr/lib/ephemeroot"))
    done = subprocess.run(
        [closure.interpreter(), "-I", "-S", "-B", "-c", code],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


def test_a_missing_module_is_handled_by_the_policy(folder: Folder) -> None:
    broken = "from ephemeroot.hooks.gone import VALUE\n"
    folder.pack(PACKED | {"ephemeroot.hooks.__main__": broken})
    done = folder.run("wipe")
    assert done.returncode == 70
    assert "No module named 'ephemeroot.hooks.gone'" in done.stderr


def damages() -> Iterator[tuple[str, str]]:
    """Ways to damage the bundle, as Python, and the expected message."""
    size, head = len(entry.MAGIC), len(entry.MAGIC) + 12
    yield "b''", "not a bundle"
    yield "data[1:]", "not a bundle"
    yield "b'X' + data[1:]", "not a bundle"
    yield f"data[:{size}] + b'\\0\\0\\0\\0' + data[{size + 4}:]", "another version of Python"
    yield "data[:-1]", "checksum"
    yield "data + b'\\0'", "checksum"
    yield "data[:-20] + b'\\0' * 20", "checksum"
    yield f"data[:{head}]", "checksum"
    yield f"data[:{size + 2}]", "checksum"
    for place in (size + 5, size + 9, head, head + 30):
        yield f"data[:{place}] + bytes([data[{place}] ^ 1]) + data[{place + 1}:]", "checksum"


@pytest.mark.parametrize(("change", "said"), list(damages()))
def test_a_damaged_bundle_is_not_run(folder: Folder, change: str, said: str) -> None:
    data = folder.bundle.read_bytes()
    folder.bundle.write_bytes(eval(change, {"data": data}))
    done = folder.run("wipe")
    assert (done.returncode, done.stdout) == (70, "")
    assert len(done.stderr.splitlines()) == 1
    assert f"the boot code {folder.bundle} cannot be used" in done.stderr
    assert said in done.stderr
    assert "ephemeroot apply" in done.stderr


def test_reports_a_missing_bundle(folder: Folder) -> None:
    folder.bundle.unlink()
    done = folder.run("wipe")
    assert (done.returncode, done.stdout) == (70, "")
    assert "No such file" in done.stderr


@given(st.data())
def test_detects_any_changed_byte_of_the_bundle(data: st.DataObject) -> None:
    sources = [Source("ephemeroot.errors", PROGRAM / "errors.py", "errors.py", package=False)]
    packed = bytearray(bundle.pack(sources, b"{}\n"))
    place = data.draw(st.integers(0, len(packed) - 1))
    packed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(entry.BundleError):
        entry.Bundle(bytes(packed))


def test_the_plan_of_the_bundle_is_used_only_if_it_is_the_images(folder: Folder) -> None:
    """The stage follows plan.json: the constant in the bundle only saves parsing it."""
    raw = plan().dump()
    packed = entry.Bundle(bundle.pack([], raw))
    other = plan(generation=8).dump()
    path = folder.path / "plan.json"
    for content in (raw, other):
        path.write_bytes(content)
        assert plans.load(str(path), packed.plan).dump() == content
    assert packed.plan(other) is None
    path.write_bytes(raw.replace(b"/var/log", b"/var/lob"))
    with pytest.raises(Damaged, match="checksum"):
        plans.load(str(path), packed.plan)


def test_a_plan_in_the_bundle_equals_the_parsed_one(folder: Folder) -> None:
    """With defaults, values of None, and a name that is not UTF-8."""
    made = plan(generation=8)
    made.persist.append(
        Directory(path="/srv/\udcff", store="/persistent", source="srv", mode=0o700)
    )
    made.persist.append(Parent(path="/srv", store="/persistent", source="srv", explicit=True))
    raw = made.dump()
    path = folder.path / "plan.json"
    path.write_bytes(raw)
    found = plans.load(str(path), entry.Bundle(bundle.pack([], raw)).plan)
    usual = plans.parse(raw)
    for one, other in zip(found.wipe + found.persist, usual.wipe + usual.persist, strict=True):
        assert type(one) is type(other)
        for option in one.FIELDS:
            assert getattr(one, option.name) == getattr(other, option.name)


def test_accepts_an_image_of_another_python(folder: Folder) -> None:
    """The program that reads an image back may run under another Python than the image's."""
    data = folder.bundle.read_bytes()
    size = len(entry.MAGIC)
    assert data[size : size + 4] == MAGIC_NUMBER
    bundle.require_sound(data[:size] + b"\0\0\0\0" + data[size + 4 :], "bundle")
    with pytest.raises(Damaged, match="bundle is damaged"):
        bundle.require_sound(data[:-1], "bundle")


def test_names_a_source_that_cannot_be_compiled(folder: Folder) -> None:
    with pytest.raises(Broken, match=r"ephemeroot\.hooks\.other"):
        folder.pack(PACKED | {"ephemeroot.hooks.other": "def\n"})


def test_removing_annotations_does_not_change_the_code() -> None:
    """Each function of the boot code has the same arguments, names and line."""
    count = 0
    for folder in ("hooks", "wipers", "linux"):
        for path in sorted((PROGRAM / folder).rglob("*.py")):
            source = Source("ephemeroot.x", path, "x.py", package=False)
            packed = functions(marshal.loads(bundle.compiled(source)))
            tree = ast.parse(path.read_bytes())
            read_by_linters = [node for node in tree.body if "TYPE_CHECKING" in head_of(node)]
            whole = compile(tree, "x.py", "exec", dont_inherit=True, optimize=2)
            assert lines(bundle.without_columns(whole)) == lines(whole)
            usual = functions(whole)
            for name, function in usual.items():
                line = int(name.rpartition(":")[2])
                if not any(
                    node.lineno <= line <= (node.end_lineno or 0) for node in read_by_linters
                ):
                    assert packed[name] == function, (path, name)
                    count += 1
    assert count > 1000


def lines(code: CodeType) -> list[int | None]:
    """The line of each instruction, in all functions."""
    found = [line for start, end, line in code.co_lines() for _ in range(start, end, 2)]
    inner = [one for one in code.co_consts if isinstance(one, CodeType)]
    return found + [line for one in inner for line in lines(one)]


def head_of(node: ast.stmt) -> str:
    return ast.unparse(node.test) if isinstance(node, ast.If) else ""


def functions(module: CodeType) -> dict[str, object]:
    """The components of each function of a module's code, by name and line."""
    found: dict[str, object] = {}
    pending = [module]
    while pending:
        for one in pending.pop().co_consts:
            if isinstance(one, CodeType):
                pending.append(one)
                if one.co_flags & inspect.CO_NEWLOCALS and one.co_name != "<lambda>":
                    found[f"{one.co_qualname}:{one.co_firstlineno}"] = (
                        one.co_varnames, one.co_names, one.co_freevars, one.co_argcount,
                        one.co_kwonlyargcount, one.co_firstlineno, one.co_flags,
                    )  # fmt: skip
    return found
