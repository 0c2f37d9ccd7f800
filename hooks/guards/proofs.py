"""Could this root boot? Asked before it takes the place of one that did.

The fresh root is mounted together with the plan's volumes as the machine will see it,
and the kernel itself resolves the paths in it: links lead where they will lead.
"""

from __future__ import annotations

import errno
import os
import stat

from ephemeroot.errors import Refused
from ephemeroot.hooks import tree
from ephemeroot.linux import kernel_modules, mounts, paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.stage import Stage

# What systemd's switch-root and the kernel look for, in their order
# (systemd: src/shared/base-filesystem.c, os-util.c; Linux: init/main.c).
OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")
INIT = ("/sbin/init", "/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/etc/init",
        "/bin/init")  # fmt: skip

_WHOLE = "the base must be a whole system; without a base, /usr must be a volume"


def require_bootable(stage: Stage, fresh: str) -> None:
    """Raise ``Refused`` unless the tree mounted at *fresh* could boot this kernel.

    It must have an os-release (systemd refuses to switch to a root without), an
    executable init, and, if it has kernel modules at all, those of the running kernel.
    """
    trial = stage.private("trial")
    _assemble(stage, fresh, trial)
    try:
        root = os.open(trial, tree.DIRECTORY | os.O_CLOEXEC)
        try:
            require_whole(root, stage.cmdline.get("init"), os.uname().release)
        finally:
            os.close(root)
    finally:
        mounts.detach(trial)


def require_whole(root: int, init: str | None, release: str | None) -> None:
    """Raise ``Refused`` unless the open tree *root* has an os-release, an executable *init*
    (``None``: a usual one) and, if it has kernel modules at all, those of *release* (``None``:
    whatever they are).
    """
    _require_os_release(root)
    _require_init(root, init)
    if release is not None:
        _require_modules(root, release)


def _assemble(stage: Stage, fresh: str, trial: str) -> None:
    """Mount *fresh* and, inside it, the volumes, at the private directory *trial*."""
    bind(fresh, trial)
    try:
        root = os.open(trial, tree.DIRECTORY | os.O_CLOEXEC)
        try:
            for volume in stage.plan.attached():
                _bind_volume(stage, volume.volume, volume.mount_point, root)
        finally:
            os.close(root)
    except BaseException:
        mounts.detach(trial)
        raise


def _bind_volume(stage: Stage, name: str, mount_point: str, root: int) -> None:
    private = stage.volume(name)
    is_new = not stage.is_mounted(private)  # itself made fresh, and not yet
    try:
        place = paths.open_in_root(root, mount_point, tree.DIRECTORY)
    except FileNotFoundError:
        # The mount point is created only for the final mount, not for a trial. The files
        # of the volume are then missing here, which a proof may report.
        return
    try:
        if is_new:
            # It may be empty, and must hide nothing that a boot needs.
            source = mounts.create("tmpfs", "tmpfs", ["size=64k"])
        else:
            source = os.open(private, tree.DIRECTORY | os.O_CLOEXEC)
        try:
            if is_new:
                mounts.attach(source, place, name=mount_point)
            else:
                mounts.bind(source, place, name=mount_point)
        finally:
            os.close(source)
    finally:
        os.close(place)


def bind(source: str, target: str) -> None:
    """Bind the directory *source* at the directory *target*, privately."""
    opened = os.open(source, tree.DIRECTORY | os.O_CLOEXEC)
    try:
        place = os.open(target, tree.DIRECTORY | os.O_CLOEXEC)
        try:
            mounts.bind(opened, place, name=target)
        finally:
            os.close(place)
    finally:
        os.close(opened)
    mounts.make_private(target)


def _require_os_release(root: int) -> None:
    for path in OS_RELEASE:
        fd = _open(root, path)
        if fd is not None:
            os.close(fd)
            return
    raise Refused(
        f"the fresh root has no {OS_RELEASE[1]}: systemd would not switch to it",
        _WHOLE,
    )


def _require_init(root: int, asked: str | None) -> None:
    for path in (asked,) if asked else INIT:
        fd = _open(root, path)
        if fd is None:
            continue
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISREG(mode) and mode & 0o111:
                _require_exec(fd, path)
                return
        finally:
            os.close(fd)
    wanted = asked or INIT[0]
    raise Refused(
        f"the fresh root has no executable {wanted}",
        _WHOLE,
    )


def _require_exec(fd: int, path: str) -> None:
    if os.fstatvfs(fd).f_flag & os.ST_NOEXEC:
        raise Refused(
            f"{path} of the fresh root is on a volume mounted with noexec: it cannot be started",
            'remove "noexec" from the options of the volume',
        )


def _require_modules(root: int, release: str) -> None:
    kernels = kernel_modules.releases(root)
    if kernels and release not in kernels:
        from ephemeroot import amounts  # only a failure needs it

        raise Refused(
            f"the fresh root has no modules for the running kernel {release}, "
            f"only for {amounts.listed(sorted(kernels))}",
            "choose a kernel with modules in the boot menu, or install this kernel in the base",
        )


def _open(root: int, path: str) -> int | None:
    try:
        return paths.open_in_root(root, path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
