"""The shared libraries that programs and extension modules need, and where they are.

dracut before 110 resolves them only for files with the executable bit, which extension modules
lack; mkinitcpio only for files that it is given. So this module does it.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from ephemeroot.image import elf
from ephemeroot.image.broken import Broken

_DEFAULT = ("/lib64", "/usr/lib64", "/lib", "/usr/lib")


class Libraries:
    """Finds libraries as the dynamic linker of this machine would."""

    def __init__(self) -> None:
        self._cache = _linker_cache()

    def needed_by(self, files: Iterable[Path]) -> dict[Path, Path]:
        """All libraries that *files* need, directly or not, and their loader; each with a file
        that needs it.

        The names are those that the loader uses (``libc.so.6``). Raises ``Broken`` with the name of
        a missing library and the file that needs it.
        """
        found: dict[str, Path] = {}
        needing: dict[Path, Path] = {}
        waiting = list(files)
        while waiting:
            file = waiting.pop()
            facts = elf.read(file)
            if facts is None:
                continue
            if facts.interpreter is not None:
                loader = found.setdefault(facts.interpreter, Path(facts.interpreter))
                needing.setdefault(loader, file)
            for name in facts.needed:
                if name not in found:
                    found[name] = self._find(name, facts, file)
                    needing.setdefault(found[name], file)
                    waiting.append(found[name])
        return dict(sorted(needing.items()))

    def _find(self, name: str, facts: elf.Elf, needing: Path) -> Path:
        if "/" in name:
            candidates = [Path(name)]
        else:
            folders = (*facts.search, *(str(p.parent) for p in self._cache.get(name, ())))
            candidates = [Path(f, name) for f in (*folders, *_DEFAULT)]
        for candidate in candidates:
            if candidate.is_file():
                other = elf.read(candidate)
                if other is not None and other.machine == facts.machine:
                    return candidate
        raise Broken(
            f"the library {name} that {needing} needs is not installed",
            f"install the package that contains {name}",
        )


def _linker_cache() -> dict[str, list[Path]]:
    """ldconfig's list: name to paths. Empty without glibc, as on musl."""
    program = shutil.which("ldconfig", path="/usr/sbin:/sbin:/usr/bin")
    if program is None:
        return {}
    done = subprocess.run(
        [program, "-p"], capture_output=True, text=True, env={"LC_ALL": "C"}, check=False
    )
    cache: dict[str, list[Path]] = {}
    for line in done.stdout.splitlines():
        name, arrow, path = line.strip().partition(" => ")
        if arrow:
            cache.setdefault(name.partition(" (")[0], []).append(Path(path))
    return cache
