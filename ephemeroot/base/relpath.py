"""Programs of a base that tell a boot loader where the root is: each gets one in front of it that
names the root instead of the temporary copy.
"""

from __future__ import annotations

import os
import shlex

from ephemeroot.base.mounting import FOLDER, Assembly, attach, open_place
from ephemeroot.linux import mounts, paths

_RELPATHS = ("/usr/bin/grub-mkrelpath", "/usr/bin/grub2-mkrelpath")

# grub-mkconfig asks this program for the subvolume to boot, and would use the copy's
# temporary name instead of the root's.
_RELPATH = """\
#!/bin/sh
temporary={temporary}
root={root}
path=$({real} "$@") || exit
case $path in
    "$temporary" | "$temporary"/*) path=$root${{path#"$temporary"}} ;;
esac
printf '%s\\n' "$path"
"""


def name_the_root(assembly: Assembly, root: int, temporary: str, named: str) -> None:
    """Put a program around each that tells a boot loader where the root lies."""
    for program in _RELPATHS:
        try:
            place = paths.open_in_root(root, program)
        except OSError:
            continue
        try:
            name = os.path.basename(program)
            real = f"{FOLDER}/{name}.real"
            text = _RELPATH.format(
                temporary=shlex.quote(f"/{temporary}"), root=shlex.quote(f"/{named}"), real=real
            )
            folder = _folder(assembly, root)
            try:
                _write(folder, f"{name}.real", "")
                _write(folder, name, text)
                for source, target in ((place, real), (-1, program)):
                    _bind_inside(root, source, f"{FOLDER}/{name}", target)
            finally:
                os.close(folder)
        finally:
            os.close(place)


def _folder(assembly: Assembly, root: int) -> int:
    """A small file system of the assembly's own, open."""
    place = open_place(assembly, root, FOLDER, directory=True)
    try:
        if not os.path.ismount(assembly.path + FOLDER):
            mount = mounts.create("tmpfs", "tmpfs", ["mode=0755"])
            try:
                mounts.attach(mount, place, name=FOLDER)
            finally:
                os.close(mount)
    finally:
        os.close(place)
    return paths.open_in_root(root, FOLDER, os.O_RDONLY | os.O_DIRECTORY)


def _write(folder: int, name: str, text: str) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o755, dir_fd=folder)
    with os.fdopen(fd, "w") as file:
        os.fchmod(fd, 0o755)
        file.write(text)


def _bind_inside(root: int, source: int, named: str, target: str) -> None:
    """Bind *source*, or the path *named* of the tree if that is -1, at *target* of the tree."""
    opened = source if source >= 0 else paths.open_in_root(root, named)
    try:
        place = paths.open_in_root(root, target)
        try:
            attach(opened, place, target)
        finally:
            os.close(place)
    finally:
        if source < 0:
            os.close(opened)
