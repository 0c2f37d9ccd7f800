"""The Debian systems of the machines: small real ones, with the harness's own agent."""

from __future__ import annotations

import inspect
import lzma
import re
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

from vm import debian, layer
from vm.cache import Cache, digest
from vm.command import run
from vm.layer import Content
from vm.system import System

_GUEST = Path(__file__).resolve().parent.parent / "guest"

PACKAGES = debian.Selection(
    packages=(
        "linux-image-cloud-amd64",
        "dracut",
        "systemd-sysv",
        "udev",
        "dbus",
        "btrfs-progs",
        "python3",
        "python3-btrfsutil",
        "python3-pyudev",
        "python3-pyroute2",
        "kmod",
        "zstd",
    )
)
DEBIAN_12 = replace(PACKAGES, suite="bookworm")
# Its dracut needs a switch_root that no package depends on.
UNSTABLE = replace(
    PACKAGES, suite="sid", stale=True, packages=(*PACKAGES.packages, "util-linux-extra")
)
_ENCRYPTED_AND_LOGICAL = ("cryptsetup", "systemd-cryptsetup", "dmsetup", "lvm2")
# Programs for devices and the filesystems on them: Debian's own dracut modules and units.
VOLUMES = replace(
    PACKAGES,
    packages=(*PACKAGES.packages, *_ENCRYPTED_AND_LOGICAL, "mdadm", "e2fsprogs", "xfsprogs"),
)
# Services that replace, generate and link their persistent files.
WITH_SERVICES = replace(
    PACKAGES, packages=(*PACKAGES.packages, "network-manager", "openssh-server", "acl")
)
# The packages that a foreign mkinitcpio needs on Debian.
FOR_MKINITCPIO = replace(
    PACKAGES, packages=(*PACKAGES.packages, "busybox", "libarchive-tools", "gawk")
)
ENCRYPTED_FOR_MKINITCPIO = replace(
    FOR_MKINITCPIO,
    packages=(*FOR_MKINITCPIO.packages, *_ENCRYPTED_AND_LOGICAL, "thin-provisioning-tools"),
)

# Disabled because they are slow: each costs a process start, which takes 0.1-0.5 s under TCG.
_MASKED = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dev-hugepages.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",  # there is no screen; the login prompt is on the serial console
    "ldconfig.service",
    "modprobe@configfs.service",
    "modprobe@drm.service",
    "modprobe@fuse.service",
    "proc-sys-fs-binfmt_misc.automount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
    "systemd-networkd.service",
    "systemd-pstore.service",
    "systemd-tmpfiles-clean.timer",
    "systemd-udev-load-credentials.service",
    "systemd-update-done.service",
)

# Each is a process with two starts, in a tree for which it generates nothing.
_GENERATORS = ("gpt-auto", "rc-local", "run", "ssh", "system-update", "sysv", "tpm2")

# Loaded by every boot; the kernel needs a second under TCG to unpack them.
_UNPACKED = ("btrfs", "xor", "raid6_pq", "libcrc32c", "virtio_blk", "virtio-rng", "blake2b_generic")

_ZSTD = b"\x28\xb5\x2f\xfd"  # RFC 8878

_SIGNED = b"~Module signature appended~\n"  # include/linux/module_signature.h

_FILES: dict[str, Content] = {
    "etc/hostname": "debian\n",
    "etc/hosts": "127.0.0.1 localhost debian\n",
    "etc/resolv.conf": "",
    # The console log has enough about a lost machine; flushing to disk costs a second.
    "etc/systemd/journald.conf.d/volatile.conf": "[Journal]\nStorage=volatile\n",
    # Update tasks (ConditionNeedsUpdate=) have nothing to do: everything is new.
    "etc/.updated": "TIMESTAMP_NSEC=4102444800000000000\n",
    "var/.updated": "TIMESTAMP_NSEC=4102444800000000000\n",
}


def debian_system(cache: Cache, selection: debian.Selection = PACKAGES) -> System:
    """The system without the project, bootstrapped if the cache has none (16 s, 290 MB)."""
    # Only the parts that decide on the tree: a changed comment must not cause a bootstrap.
    sources = [inspect.getsource(part) for part in (_build, _kernel, _without_signature)]
    key = digest(repr(selection), _UNPACKED, debian.RECIPE, sources)
    entry = cache.entry("debian", key, lambda folder: _build(folder, selection), keep=12)
    release = next((entry / "tree/usr/lib/modules").iterdir()).name
    system = System((entry / "tree",), entry / "vmlinux", release, entry.name)
    links = {f"etc/systemd/system/{unit}": "/dev/null" for unit in _MASKED}
    for name in _GENERATORS:
        links[f"etc/systemd/system-generators/systemd-{name}-generator"] = "/dev/null"
    links["etc/systemd/system/multi-user.target.wants/vm-agent.service"] = (
        "/usr/lib/systemd/system/vm-agent.service"
    )
    return system.on_top(layer.make(cache, files=_FILES, links=links, folders={"": _GUEST}))


def _build(folder: Path, selection: debian.Selection) -> None:
    tree = folder / "tree"
    debian.bootstrap(tree, selection)
    compressed = next((tree / "boot").glob("vmlinuz-*"))
    (folder / "vmlinux").write_bytes(_kernel(compressed.read_bytes()))
    useless = [
        *(tree / "boot").iterdir(),
        *(tree / "var/cache/apt").glob("*.bin"),
        *(tree / "var/lib/apt/lists").glob("*_*"),
        *(tree / name for name in ("vmlinuz", "vmlinuz.old", "initrd.img", "initrd.img.old")),
    ]
    for path in useless:
        if path.is_symlink() or path.is_file():
            path.unlink()
    modules = next((tree / "usr/lib/modules").iterdir())
    for name in _UNPACKED:
        for module in modules.rglob(f"{name}.ko.xz"):
            code = lzma.decompress(module.read_bytes())
            module.with_suffix("").write_bytes(_without_signature(code))
            module.unlink()
    run(["chroot", tree, "depmod", "--all", modules.name])
    # Existing but empty: not a first boot, and each new root gets its own identity.
    (tree / "etc/machine-id").write_text("")
    shadow = tree / "etc/shadow"
    shadow.write_text(re.sub(r"^root:[^:]*:", "root::", shadow.read_text(), flags=re.MULTILINE))


def _without_signature(module: bytes) -> bytes:
    """A kernel module without the signature that is appended to it.

    The kernel of a test requires no signature, and checking one is slow without the processor's
    help. The module ends with 12 bytes, of which the last four are the signature's length, and a
    fixed text.
    """
    if not module.endswith(_SIGNED):
        return module
    end = len(module) - len(_SIGNED)
    (length,) = struct.unpack(">I", module[end - 4 : end])
    return module[: end - 12 - length]


def _kernel(image: bytes) -> bytes:
    """The uncompressed kernel inside a bzImage.

    QEMU starts it directly (PVH), which saves the 1.5 s of firmware and unpacking. Offsets: the
    kernel's Documentation/arch/x86/boot.rst (setup_sects, payload_offset and _length). An image
    that is not compressed by zstd (Debian 12: lz4) stays unchanged; QEMU boots it as well.
    """
    setup = (image[0x1F1] or 4) + 1
    offset, length = struct.unpack_from("<II", image, 0x248)
    # zstd, as Debian compresses it; the last 4 bytes are the size, which zstd knows itself
    payload = image[setup * 512 + offset :][: length - 4]
    if not payload.startswith(_ZSTD):
        return image
    words = ["zstd", "--decompress", "--stdout"]
    return subprocess.run(words, input=payload, capture_output=True, check=True).stdout
