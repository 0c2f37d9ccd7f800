"""dracut modules that are packaged separately from dracut."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Collection, Iterator

from ephemeroot.hooks.plan import Plan
from ephemeroot.image import nics
from ephemeroot.image.generators.contract import Missing

_MODULES = "usr/lib/dracut/modules.d"
_BY_TYPE = {"zfs": "zfs"}

# The package of each module that is not dracut's own: packages.debian.org (contrib has
# zfs-dracut); Fedora's dracut.spec; openzfs/zfs, rpm/generic/zfs.spec.in.
_PACKAGES = {
    "usr/bin/apt-get": ("apt install", {
        "zfs": "zfs-dracut", "network": "dracut-network",
        "kernel-network-modules": "dracut-network",
    }),
    "usr/bin/dnf": ("dnf install", {
        "zfs": "zfs-dracut", "network": "dracut-network",
        "kernel-network-modules": "dracut-network",
    }),
}  # fmt: skip


def of_network(plan: Plan) -> list[str]:
    """The modules for the network that the volumes of *plan* need."""
    if not nics.is_needed(plan):
        return []
    return ["kernel-network-modules"] if nics.is_static(plan) else ["network"]


def missing(root: str, types: Collection[str], plan: Plan | None) -> Iterator[Missing]:
    """See ``contract.Generator.missing``."""
    wanted = [_BY_TYPE[type_] for type_ in sorted(types) if type_ in _BY_TYPE]
    wanted += of_network(plan) if plan else []
    folders = glob.glob(f"{_MODULES}/*", root_dir=root)
    installed = {re.sub("^[0-9-]+", "", os.path.basename(folder)) for folder in folders}
    for module in wanted:
        if module not in installed:
            yield Missing(f"dracut's module {module} is not installed", _command(module, root))


def _command(module: str, root: str) -> str:
    for program, (install, packages) in _PACKAGES.items():
        if os.path.lexists(os.path.join(root, program)):
            return f"{install} {packages[module]}"
    return f"# install dracut's module {module}"
