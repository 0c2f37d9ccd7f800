"""Whether an old root can run with the kernels that boot here: a boot refuses one that has no
modules for the kernel that runs (hooks/guards/proofs.py).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ephemeroot import amounts, terminal
from ephemeroot.base import boot_kernels
from ephemeroot.base.boot_kernels import Area
from ephemeroot.errors import Refused
from ephemeroot.hooks.plan import Plan
from ephemeroot.image.generators import installed
from ephemeroot.linux import kernel_modules
from ephemeroot.linux.namespace import Namespace
from ephemeroot.old_roots import two_roots
from ephemeroot.wipers.history import History

_MODULES = ("/usr", "/usr/lib", "/usr/lib/modules", "/lib/modules")


def require(private: Namespace, history: History, name: str, plan: Plan, root: str) -> None:
    """Warn of each kernel of the machine below *root* with which a boot would refuse the old root
    *name* of *history*, and name the others.

    Raises ``Refused`` if there is no other: the request would only be gone.
    """
    if any(volume.mount_point in _MODULES for volume in plan.volumes()):
        return  # every root has the same modules
    entry = history.find(name)
    with two_roots.attached(private, name, history.mount(entry)) as tree:
        have = set() if tree.fd is None else kernel_modules.releases(tree.fd)
    kernels = _kernels(root)
    without = sorted(release for release in kernels if release not in have)
    if not have or not without:
        return
    good = [f"{kernels[release]} ({release})" for release in sorted(kernels) if release in have]
    reason = f"the old root {name} has no modules for the kernel {' and '.join(without)}"
    if not good:
        raise Refused(
            f"{reason}, only for {amounts.listed(sorted(have))}: a boot would refuse it",
            f"install the kernel {max(have)} again, with an image, or restore the files that you "
            f"need with 'ephemeroot roots restore --from {name} PATH'",
        )
    terminal.warning(
        f"{reason}: a boot with that kernel refuses it and makes a new root",
        f"choose the entry of {' or '.join(good)} in the boot menu",
    )


def _kernels(root: str) -> Mapping[str, str]:
    """The releases of the kernels that can boot the machine below *root*, each with its file or its
    image. If there is none, the running kernel of this machine.
    """
    found: dict[str, str] = {}
    for generator in installed.every():
        for image in generator.images(Path(root))[0]:
            if image.release:
                found[image.release] = str(image.path)
    boot = Path(root, "boot")
    if boot.is_dir():
        for kernel in boot_kernels.find([Area("/boot", boot)]):
            if kernel.release:
                found[kernel.release] = kernel.shown
    if not found and root == "/":
        found[os.uname().release] = "the running kernel"
    return found
