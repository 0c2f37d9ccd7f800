"""Which modules and libraries are packed: those that are loaded at import or by a call."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ephemeroot
from ephemeroot.config import plugins
from ephemeroot.image import closure, elf
from ephemeroot.image.broken import Broken
from ephemeroot.image.closure import Closure
from ephemeroot.image.libraries import Libraries


@pytest.fixture(scope="module")
def found() -> Closure:
    return closure.trace(["ephemeroot.wipers.btrfs"])


def names(found: Closure) -> set[str]:
    return {module.name for module in found.modules}


def test_finds_the_boot_code_and_the_modules_that_it_loads(found: Closure) -> None:
    assert {
        "ephemeroot.hooks.__main__",
        "ephemeroot.wipers.btrfs.wiper",
        "ephemeroot.linux.mounts",
        "json",
        "encodings.utf_8",
    } <= names(found)


def test_the_image_has_no_module_of_the_installed_side(found: Closure) -> None:
    for name in names(found):
        assert not name.startswith(("ephemeroot.cli", "ephemeroot.config", "ephemeroot.image"))
    assert not {"typing", "site", "argparse", "ssl", "subprocess"} & names(found)


def test_a_backend_loads_no_code_of_another() -> None:
    """For each installed backend, including the imports in its functions."""
    parts = {plugins.find(name).attribute.partition(":")[0] for name in plugins.names()}
    assert {"ephemeroot.wipers.btrfs", "ephemeroot.wipers.tmpfs"} <= parts
    for own in parts:
        found = names(closure.trace([own]))
        assert any(name == own for name in found)
        for other in parts - {own}:
            assert not [n for n in found if n == other or n.startswith(f"{other}.")], own


def test_the_interpreter_is_not_that_of_a_virtual_environment(found: Closure) -> None:
    assert not found.program.is_symlink()
    assert Path(sys.prefix) == Path(sys.base_prefix) or not found.program.is_relative_to(sys.prefix)


def test_every_file_exists(found: Closure) -> None:
    assert all(module.file.is_file() for module in found.modules)


def test_distinguishes_the_standard_library_from_other_modules(found: Closure) -> None:
    for module in found.modules:
        standard = module.name.partition(".")[0] in sys.stdlib_module_names
        assert found.is_standard(module) == standard, module


IN_EACH_BLOCK = """
class Late:
    async def late(self, value):
        for _ in value:
            import calendar
        else:
            import fractions
        with value:
            try:
                import netrc
            except OSError:
                import plistlib
            finally:
                import quopri
        match value:
            case 1:
                import sched
        def later():
            while value:
                import cmd
"""


def test_follows_imports_inside_functions(tmp_path: Path) -> None:
    """In a copy of the program, a boot function imports a module that no other code imports, and a
    function of that module imports one of Ephemeroot's.
    """
    shutil.copytree(Path(ephemeroot.__path__[0]), tmp_path / "ephemeroot")
    with (tmp_path / "ephemeroot/hooks/tree.py").open("a") as source:
        source.write(
            "\n\ndef late():\n    import colorsys\n    from ephemeroot.hooks import later\n"
        )
        source.write("    import somebodys_library\n")
        source.write(IN_EACH_BLOCK)
    (tmp_path / "ephemeroot/hooks/later.py").write_text("def later():\n    import bisect\n")
    (tmp_path / "somebodys_library.py").write_text("")
    code = (
        "from ephemeroot.image import closure; import json;"
        "print(json.dumps([m.name for m in closure.trace([]).modules]))"
    )
    done = subprocess.run(
        [closure.interpreter(), "-s", "-P", "-B", "-c", code],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    modules = json.loads(done.stdout)
    assert {"colorsys", "ephemeroot.hooks.later", "bisect"} <= set(modules)
    assert {"calendar", "fractions", "netrc", "plistlib", "quopri", "sched", "cmd"} <= set(modules)
    # A third party's library is packed only if a wiper names it.
    assert "somebodys_library" not in modules


def test_names_a_missing_module() -> None:
    with pytest.raises(Broken, match="no_such_library"):
        closure.trace(["no_such_library"])


def test_finds_the_same_libraries_as_ldd(found: Closure) -> None:
    """ldd is the tool of the dynamic linker itself."""
    done = subprocess.run(
        ["ldd", str(found.program)], capture_output=True, text=True, env={"LC_ALL": "C"}
    )
    words = [line.split() for line in done.stdout.splitlines()]
    expected = {Path(w[2]).resolve() for w in words if len(w) > 2 and w[1] == "=>"}
    assert expected
    found_here = {path.resolve() for path in Libraries().needed_by([found.program])}
    assert expected <= found_here
    interpreter = elf.read(found.program)
    assert interpreter is not None
    assert interpreter.interpreter is not None
    assert Path(interpreter.interpreter).resolve() in found_here


def test_a_script_is_not_an_elf_file(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    assert elf.read(script) is None


def test_names_a_missing_library(tmp_path: Path, found: Closure) -> None:
    """The ELF header of the interpreter, with one library's name changed."""
    data = found.program.read_bytes()
    broken = tmp_path / "python3"
    broken.write_bytes(data.replace(b"libc.so.6\0", b"libq.so.6\0"))
    with pytest.raises(Broken, match=r"libq\.so\.6"):
        Libraries().needed_by([broken])
