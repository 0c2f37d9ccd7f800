"""The folder in which the initramfs's part is put together before anybody copies it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ephemeroot.linux import removal

FOLDER = "/usr/lib/ephemeroot"
"""Where everything of Ephemeroot's is in the initramfs."""

_LINKS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")


class Tree:
    """Files under their names in the initramfs, below the folder ``top``.

    Names are those behind this machine's links between directories (``/lib`` is
    ``usr/lib`` on a merged ``/usr``): the initramfs generators make the same links, and a
    directory of Ephemeroot's must not take a link's place. ``why`` says for each name what it is
    there for.
    """

    def __init__(self, top: Path) -> None:
        self.top = top
        self.why: dict[str, str] = {}
        top.mkdir(parents=True, exist_ok=True)

    def place(self, name: str) -> Path:
        """Where the file called *name* in the initramfs is in this folder; parents are made."""
        head, tail = os.path.split(os.path.normpath(name))
        path = self.top / os.path.realpath(head).lstrip("/") / tail
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def copy(self, source: Path, name: str | None = None, *, why: str) -> None:
        """Copy the file *source*, by default under its own name; a link with what it leads to."""
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
        """Make the symlink *name*."""
        path = self.place(name)
        self.why[self.name(path)] = why
        if not path.is_symlink():
            path.symlink_to(target)

    def folder(self, name: str) -> None:
        """Make the directory *name*."""
        self.place(name + "/.").mkdir(parents=True, exist_ok=True)

    def compile(self, source: Path, name: str, *, why: str, optimize: int = -1) -> None:
        """Byte-compile *source* to the file *name*; *optimize* as ``py_compile`` has it.

        ``unchecked-hash``: there is no source in the initramfs to compare with, and no
        reason to look for one (PEP 552). The code remembers its name in the initramfs,
        not where it was built. Raises ``py_compile.PyCompileError``.
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
        """The directories with nothing in them, which no list of files brings along."""
        folders = (p for p in self.top.rglob("*") if p.is_dir() and not p.is_symlink())
        return sorted(folder for folder in folders if not any(folder.iterdir()))

    def name(self, path: Path) -> str:
        """What the file *path* of this folder is called in the initramfs."""
        return "/" + str(path.relative_to(self.top))

    def settle(self, when: int) -> None:
        """Give everything the time *when* and every directory the mode 0755: the same plan
        on the same machine makes the same tree.
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
    """The links in this machine's root that programs' names go through: ``/bin`` to ``usr/bin``."""
    return {link: os.readlink(link) for link in _LINKS if os.path.islink(link)}
