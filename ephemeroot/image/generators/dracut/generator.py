"""The implementation of the generator contract for dracut."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from pathlib import Path

from ephemeroot.hooks.plan import Plan
from ephemeroot.image import block_devices, data, installation
from ephemeroot.image.generators import contract
from ephemeroot.image.generators.dracut import images, requirements
from ephemeroot.image.generators.dracut.target import DRACUT, DracutTarget
from ephemeroot.image.installation import Item
from ephemeroot.image.units import SYSTEMD

_MODULE = "/usr/lib/dracut/modules.d/50ephemeroot"
_CONF = "/usr/lib/dracut/dracut.conf.d/50-ephemeroot.conf"

# A bash script that is sourced (dracut.conf(5)). Without it, a host-only image unlocks and
# assembles only the devices of the root.
_CONF_TEXT = """\
# Ephemeroot: include the devices under the volumes needed for boot (LUKS, LVM, MD) in the image,
# like those of the root.
add_device+=" $(/usr/bin/ephemeroot image --devices 2> /dev/null) "
"""


class Dracut(contract.Generator):
    """dracut (dracut(8))."""

    NAME = "dracut"
    PROGRAM = "dracut"
    PLACES = ("usr/bin/dracut", "usr/sbin/dracut", "sbin/dracut")
    MODULE = "usr/lib/dracut/modules.d/??ephemeroot/module-setup.sh"
    FOLDERS = (_MODULE,)
    BASE_HINT = 'for dracut, set hostonly_cmdline="no" and name the root on the kernel command line'

    def installation(self, has: Callable[[str], bool]) -> str:
        """The distribution's package."""
        return "apt install dracut" if has("usr/bin/apt-get") else "# install dracut"

    def rebuilding(self, has: Callable[[str], bool]) -> str:
        """kernel-install, called like in the package of the kernel. Debian has kernel and initrd in
        /boot (systemd-boot, /etc/kernel/postinst.d/zz-systemd-boot).
        """
        if has("boot/initrd.img-*") and not has("usr/lib/modules/*/vmlinuz"):
            files = ("/boot/vmlinuz", "/boot/initrd.img")
            given = " ".join(f'"{name}-$(uname -r)"' for name in files)
            return f'kernel-install add "$(uname -r)" {given}'
        return 'kernel-install add "$(uname -r)" "/usr/lib/modules/$(uname -r)/vmlinuz"'

    def items(self, program: str) -> list[Item]:
        """The module, and the configuration file that adds the plan's devices."""
        ours = data.folder("dracut") / "50ephemeroot"
        inert = ours / "ephemeroot-inert.sh"
        return [
            *installation.for_module(_MODULE, program),
            Item(f"{_MODULE}/{inert.name}", inert.read_bytes(), 0o755),
            Item(_CONF, _CONF_TEXT.replace(installation.PROGRAM, program).encode()),
            # Last: dracut uses the module as soon as this file exists.
            Item(f"{_MODULE}/module-setup.sh", (ours / "module-setup.sh").read_bytes(), 0o755),
        ]

    def images(self, root: Path) -> tuple[list[contract.Image], list[str]]:
        """One image for each installed kernel; rescue images are left out."""
        found, unknown = images.images(root)
        return [*found], unknown

    def files(self, root: Path) -> list[Path]:
        """The images, and unified images that another program builds from them."""
        found = [image.path for image in images.images(root)[0]]
        return found + [p for kernel in images.kernels(root) for p in images.unified(root, kernel)]

    def missing(
        self, root: str, types: Collection[str], plan: Plan | None
    ) -> list[contract.Missing]:
        """OpenZFS's module, and dracut's package with network modules."""
        return list(requirements.missing(root, types, plan))

    def declare(self, parser: argparse.ArgumentParser) -> None:
        """The options that module-setup.sh and our dracut.conf use."""
        parser.add_argument(
            "--init",
            choices=(SYSTEMD, DRACUT, contract.NONE),
            default=SYSTEMD,
            help="the init system of the initramfs; none: the stages cannot run",
        )
        parser.add_argument(
            "--initqueue",
            action="store_true",
            help="dracut's loop runs in the initramfs, beside systemd (without systemd it always "
            "does)",
        )
        parser.add_argument(
            "--devices",
            action="store_true",
            help="print only the block devices of the applied plan, for dracut",
        )
        parser.add_argument(
            "--dracut-modules",
            action="store_true",
            help="print only the dracut modules that the plan's volumes need",
        )

    def answer(self, arguments: argparse.Namespace, plan: Plan | None) -> list[str] | None:
        """The plan's block devices that this machine has, or dracut modules."""
        if arguments.devices:
            return block_devices.of(plan) if plan else []
        if arguments.dracut_modules:
            return requirements.of_network(plan) if plan else []
        return None

    def target(self, arguments: argparse.Namespace) -> DracutTarget:
        """The target for ``--init`` and ``--initqueue``."""
        return DracutTarget(arguments.init, initqueue=arguments.initqueue)
