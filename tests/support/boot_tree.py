"""A root directory that a process of the test uses as its ``/``, with private mounts.

Answers are the same as on a machine: fstab, units and mountinfo are those of that root.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ephemeroot.linux import kernel

_CLONE_NEWNS = 0x00020000


def write(tree: Path, name: str, text: str = "") -> Path:
    path = tree / name.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def inside(tree: Path, action: Callable[[], Any], mounts: str = "") -> Any:
    """The result of *action* in a process whose root is *tree*, after the shell script *mounts*,
    which has *tree* as ``$root``. An exception is returned as its class and text.
    """
    for name in ("proc", "dev"):
        (tree / name).mkdir(exist_ok=True)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            answer = _enter(tree, action, mounts)
            os.write(writing, json.dumps(answer).encode())
        except BaseException:  # noqa: BLE001  # the child must not return into the test
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        content = answer.read()
    os.waitpid(child, 0)
    return json.loads(content)


def _enter(tree: Path, action: Callable[[], Any], mounts: str) -> Any:
    if kernel.libc.unshare(ctypes.c_int(_CLONE_NEWNS)) != 0:
        kernel.raise_errno("unshare")
    script = f"""
        mount --make-rprivate /
        mount --bind "$root" "$root"
        mount --rbind /proc "$root/proc"
        mount --rbind /dev "$root/dev"
        {mounts}
    """
    subprocess.run(["sh", "-ec", script], check=True, env={**os.environ, "root": str(tree)})
    os.chdir(tree)
    os.chroot(".")
    try:
        return action()
    except Exception as error:  # noqa: BLE001  # it is the answer
        return [type(error).__name__, str(error)]
