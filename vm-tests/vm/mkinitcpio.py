"""Images made by a real mkinitcpio, if there is one: no Debian archive has it.

`MKINITCPIO_PREFIX` names the folder with `bin/mkinitcpio` and `lib/initcpio` of an installation
built for /usr; otherwise the one in PATH is used. Version 40 or newer.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from vm import layer
from vm.cache import Cache, digest
from vm.command import CommandFailed, Unavailable
from vm.system import System

HOOKS = {
    "udev": "base udev modconf block resume ephemeroot filesystems vm-harness",
    "systemd": "base systemd modconf block ephemeroot filesystems vm-harness",
    "encrypt": "base udev modconf block encrypt lvm2 resume ephemeroot filesystems vm-harness",
    "net": "base udev modconf block net resume ephemeroot filesystems vm-harness",
    "sd-encrypt": "base systemd modconf block sd-encrypt lvm2 ephemeroot filesystems vm-harness",
}

# The words of conftest.py, which allows these skips.
_MKINITCPIO = (
    "needs the program mkinitcpio: it is not in Debian's archive: put version 40 or newer in PATH, "
    "or name the prefix of one in MKINITCPIO_PREFIX"
)
_NETWORK = (
    "needs the program mkinitcpio-nfs-utils: it is not in Debian's archive: install its hook 'net' "
    "beside mkinitcpio's hooks"
)

# On the distributions of mkinitcpio, /usr/sbin is /usr/bin (copies here: in its images, links to
# /usr/sbin would lead back to themselves) and libraries opened at run time are in /usr/lib; and it
# looks for busybox in its own folder.
_MERGE = """\
set -e
for program in /usr/sbin/*; do
    [ -e "/usr/bin/${program##*/}" ] || cp --dereference "$program" /usr/bin/
done
for name in acl audit blkid gcc_s kmod mount seccomp; do
    for library in /usr/lib/*-linux-gnu/lib$name.so.*; do
        [ -e "/usr/lib/${library##*/}" ] || cp --dereference "$library" /usr/lib/
    done
done
for folder in cryptsetup ossl-modules; do
    if [ -e /usr/lib/*-linux-gnu/$folder ]; then cp -r /usr/lib/*-linux-gnu/$folder /usr/lib/; fi
done
cp /usr/bin/busybox /usr/lib/initcpio/busybox
"""

# It builds for a foreign distribution here: a file that Debian lacks is an error after which it
# continues. Debian has the rules of the device mapper and of LVM under other names.
_BUILD = """\
cd /usr/lib/udev/rules.d
for names in 55-dm:10-dm 56-lvm:11-dm-lvm 60-persistent-storage-dm:13-dm-disk 69-lvm:69-dm-lvm; do
    [ ! -e "${names%:*}.rules" ] || mv "${names%:*}.rules" "${names#*:}.rules"
done
modules='MODULES=(virtio_blk virtio_pci)'
printf '%s\\nCOMPRESSION=cat\\nHOOKS=(%s)\\n' "$modules" "$1" > /tmp/mkinitcpio.conf
exec > /run/results/log 2>&1
mkinitcpio -c /tmp/mkinitcpio.conf -k "$2" -g /run/results/initrd $3
[ -s /run/results/initrd ]
"""


def prefix() -> Path:
    """The folder of its installation. Raises Unavailable."""
    named = os.environ.get("MKINITCPIO_PREFIX")
    found = shutil.which("mkinitcpio")
    if named or found:
        return Path(named) if named else Path(str(found)).parent.parent
    raise Unavailable(_MKINITCPIO)


def require_network() -> None:
    """Raises Unavailable if that mkinitcpio has no hook `net`, which is in a separate package."""
    if not (prefix() / "lib/initcpio/hooks/net").exists():
        raise Unavailable(_NETWORK)


def installed(cache: Cache, system: System) -> System:
    """The system with that mkinitcpio in it. Raises Unavailable."""
    source = prefix()
    programs = {
        f"usr/bin/{name}": layer.File((source / "bin" / name).read_bytes(), 0o755)
        for name in ("mkinitcpio", "lsinitcpio")
    }
    folders = {"usr/lib/initcpio": source / "lib/initcpio"}
    added = system.on_top(layer.make(cache, files=programs, folders=folders))
    return added.changed_by(cache, "sh", "-c", _MERGE)


def make(cache: Cache, system: System, hooks: str, options: str = "") -> Path:
    """The image that the system's mkinitcpio makes with those HOOKS, if it is not in the cache.

    `options` are more words for mkinitcpio. Its output is beside the image in `log`. Raises
    CommandFailed.
    """

    def build(folder: Path) -> None:
        words = ("bash", "-c", _BUILD, "bash", hooks, system.release, options)
        try:
            system.run(cache, *words, results=folder)
        except CommandFailed as error:
            log = folder / "log"
            said = log.read_text(errors="replace") if log.exists() else ""
            raise CommandFailed(error.argv, error.status, error.output + said) from error

    key = digest(Path(__file__), system.key, hooks, options)
    return cache.entry("initramfs", key, build, keep=20) / "initrd"
