"""The folder in which the files for the initramfs are assembled."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ephemeroot.linux import removal

FOLDER = "/usr/lib/ephemeroot"
"""The directory of Ephemeroot's files in the initramfs."""

_LINKS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")


class Tree:
    """Files under their names in the initramfs, in the folder ``top``.

    Links between directories are resolved as on this machine (``/lib`` is ``usr/lib`` on a merged
    ``/usr``): the generators create the same links, and a directory of Ephemeroot's must not
    replace one. ``why`` has the purpose of each file by its name.
    """

    def __init__(self, top: Path) -> None:
        self.top = top
        self.why: dict[str, str] = {}
        top.mkdir(parents=True, exist_ok=True)

    def place(self, name: str) -> Path:
        """The path in this folder of the file *name* of the initramfs; parents are created."""
        head, tail = os.path.split(os.path.normpath(name))
        path = self.top / os.path.realpath(head).lstrip("/") / tail
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def copy(self, source: Path, name: str | None = None, *, why: str) -> None:
        """Copy the file *source*, by default to its own name; a link together with its target."""
        if name is None and source.is_symlink():
            real = source.resolve()
            self.copy(real, why=why)
            link = self.place(str(source))
            self.link(str(source), os.path.relpath(self.place(str(real)), link.parent), why=why)
            return
        import shutil

        target = self.place(name or str(source))
        if target.exists():
            return
        self.why[self.name(target)] = why
        shutil.copyfile(source, target)
        target.chmod(0o755 if source.stat().st_mode & stat.S_IXUSR else 0o644)

    def write(self, name: str, content: str | bytes, mode: int = 0o644, *, why: str) -> None:
        """Write a file."""
        target = self.place(name)
        self.why[self.name(target)] = why
        target.write_bytes(content.encode() if isinstance(content, str) else content)
        target.chmod(mode)

    def link(self, name: str, target: str, *, why: str) -> None:
        """Create the symlink *name*."""
        path = self.place(name)
        self.why[self.name(path)] = why
        if not path.is_symlink():
            path.symlink_to(target)

    def folder(self, name: str) -> None:
        """Create the directory *name*."""
        self.place(name + "/.").mkdir(parents=True, exist_ok=True)

    def compile(self, source: Path, name: str, *, why: str, optimize: int = -1) -> None:
        """Byte-compile *source* to the file *name*, with *optimize* as for ``py_compile``.

        ``unchecked-hash``: the initramfs has no source to compare with (PEP 552). Tracebacks show
        the name in the initramfs. Raises ``py_compile.PyCompileError``.
        """
        import py_compile

        target = self.place(name)
        self.why[self.name(target)] = why
        py_compile.compile(
            str(source),
            cfile=str(target),
            dfile=name,
            doraise=True,
            optimize=optimize,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
        target.chmod(0o644)

    def files(self) -> list[Path]:
        """All files and symlinks, sorted by name."""
        return sorted(p for p in self.top.rglob("*") if p.is_symlink() or p.is_file())

    def empty_folders(self) -> list[Path]:
        """The empty directories, which a list of files does not include."""
        folders = (p for p in self.top.rglob("*") if p.is_dir() and not p.is_symlink())
        return sorted(folder for folder in folders if not any(folder.iterdir()))

    def name(self, path: Path) -> str:
        """The name in the initramfs of the file *path* of this folder."""
        return "/" + str(path.relative_to(self.top))

    def settle(self, when: int) -> None:
        """Set the time of all files to *when* and the mode of every directory to 0755: equal plans
        on one machine give equal trees.
        """
        for path in [*self.top.rglob("*"), self.top]:
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
            os.utime(path, (when, when), follow_symlinks=False)


def remove(top: Path) -> None:
    """Remove the tree *top* of an earlier run, if there is one. Raises ``OSError``."""
    try:
        parent = os.open(top.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        removal.remove(parent, top.name)
    finally:
        os.close(parent)


def merged_links() -> dict[str, str]:
    """The links between directories in this machine's root: ``/bin`` to ``usr/bin``."""
    return {link: os.readlink(link) for link in _LINKS if os.path.islink(link)}
