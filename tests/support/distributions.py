"""Roots as the installers of distributions leave them, on real filesystems, and their boot loaders.

A `Distribution` describes the layout of its disk and writes its files. Its programs are scripts
with the effect that matters here: `grub-mkconfig` writes the menu, `grub-install` records where the
first stage looks for it. The boot loader's answer (`command_line`) is read back from these, and not
from a setting of the test.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

RELEASE = os.uname().release
"""Modules of the running kernel, with which the examined root must be able to boot."""

Files = Mapping[str, str]

MKCONFIG = """\
#!/bin/sh
set -e
GRUB_CMDLINE_LINUX= GRUB_CMDLINE_LINUX_DEFAULT=
. /etc/default/grub
subvolume=$(findmnt -no FSROOT / | sed 's|^/||')
flags=${subvolume:+rootflags=subvol=$subvolume}
boot=$(findmnt -no FSROOT -T /boot | sed 's|/$||')
mountpoint -q /boot || boot=$boot/boot
echo "linux $boot/vmlinuz root=$(cat /firmware/device) ro $flags $GRUB_CMDLINE_LINUX" \\
  "$GRUB_CMDLINE_LINUX_DEFAULT" > /boot/@GRUB@/grub.cfg
"""

# The first stage knows a filesystem, and a directory in it: Debian's signed one by a file on the
# ESP, others by a value that they contain.
INSTALL = """\
#!/bin/sh
set -e
prefix=$(findmnt -no FSROOT -T /boot | sed 's|/$||')
mountpoint -q /boot || prefix=$prefix/boot
if [ -d /sys/firmware/efi ]; then
  esp=/boot/efi
  case "$1" in --efi-directory=*) esp=${1#*=} ;; esac
  mountpoint -q $esp || { echo "$0: error: cannot find EFI directory"; exit 1; }
  mkdir -p $esp/EFI/mine /boot/@GRUB@/x86_64-efi
  echo core > /boot/@GRUB@/x86_64-efi/core.efi
  uuid=$(findmnt -no UUID -T /boot) path=$prefix/@GRUB@
  @STUB@
else
  [ -b "$1" ] || { echo "$0: error: install device is not specified"; exit 1; }
  mkdir -p /boot/@GRUB@/i386-pc
  echo core > /boot/@GRUB@/i386-pc/core.img
fi
echo "$prefix/@GRUB@" > /firmware/prefix
"""

# The file on the ESP, as written by grub-install, openSUSE's shim-install or Fedora's
# gen_grub_cfgstub.
STUBS = {
    "debian": r"search.fs_uuid %s root\nset prefix=(\$root)'%s'\n",
    "suse": r"search --fs-uuid --set=root %s\nset prefix=(\${root})%s\n",
    "fedora": r"search --root-dev-only --fs-uuid --set=dev %s\nset prefix=(\$dev)%s\n",
}

PASSWD = "root:x:0:0:root:/root:/bin/sh\nada:x:1000:1000:Ada:/home/ada:/bin/sh\n"

COMMON: Files = {
    "etc/hostname": "box\n",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "etc/passwd": PASSWD,
    "etc/group": "root:x:0:\nada:x:1000:\n",
    "etc/shadow": "root:*:::::::\nada:*:::::::\n",
    "etc/gshadow": "root:*::\nada:*::\n",
    "etc/subuid": "ada:100000:65536\n",
    "etc/subgid": "ada:100000:65536\n",
    "etc/ssh/ssh_host_ed25519_key": "key\n",
    "etc/ssh/ssh_host_ed25519_key.pub": "key\n",
    "home/ada/Documents/x": "hi\n",
    "var/log/wtmp": "x",
    "var/lib/systemd/random-seed": "x",
    "var/lib/private/.": "",
    "srv/.": "", "opt/.": "", "root/.bashrc": "",
    "proc/.": "", "sys/.": "", "dev/.": "", "run/.": "", "tmp/.": "", "mnt/.": "", "firmware/.": "",
    "etc/localtime -> /usr/share/zoneinfo/Europe/Berlin": "",
    "bin -> usr/bin": "", "sbin -> usr/sbin": "", "lib -> usr/lib": "", "lib64 -> usr/lib64": "",
    "usr/bin/.": "", "usr/sbin/.": "", "usr/lib64/.": "",
    f"usr/lib/modules/{RELEASE}/modules.dep":
        "".join(f"kernel/fs/{n}/{n}.ko:\n" for n in ("btrfs", "ext4", "xfs"))
        + "kernel/fs/overlayfs/overlay.ko:\n",
}  # fmt: skip

SYSTEMD: Files = {
    "usr/lib/systemd/systemd": "#!/bin/sh\n",
    "usr/bin/init -> ../lib/systemd/systemd": "",
    **{
        f"usr/lib/systemd/system/{name}": "[Service]\n[Install]\nWantedBy=multi-user.target\n"
        for name in ("NetworkManager.service", "bluetooth.service", "ssh.service")
    },
    "etc/systemd/system/multi-user.target.wants/ssh.service -> "
    "/usr/lib/systemd/system/ssh.service": "",
    "etc/NetworkManager/system-connections/home.nmconnection": "psk=secret\n",
    "var/lib/NetworkManager/secret_key": "x",
    "var/lib/bluetooth/x": "x",
}


def grub(directory: str = "grub", tools: str = "", stub: str = "debian") -> Files:
    """GRUB, with programs called grub*TOOLS*-…, as its package and its installation leave it. The
    *stub* is the file on the ESP that names the directory; empty if there is none.
    """
    write = f'printf "{STUBS[stub]}" "$uuid" "$path" > $esp/EFI/mine/grub.cfg' if stub else ""
    install = INSTALL.replace("@STUB@", write).replace("@GRUB@", directory)
    return {
        f"boot/{directory}/grub.cfg": "",
        "etc/default/grub": 'GRUB_CMDLINE_LINUX=""\nGRUB_CMDLINE_LINUX_DEFAULT="quiet"\n',
        f"usr/sbin/grub{tools}-mkconfig": MKCONFIG.replace("@GRUB@", directory),
        f"usr/sbin/grub{tools}-install": install,
    }


def kernels(image: str = "vmlinuz-{}", initramfs: str = "initrd.img-{}") -> Files:
    """One kernel in /boot."""
    names = (image.format(RELEASE), initramfs.format(RELEASE))
    return {f"boot/{name}": "x" for name in names}


def programs(*names: str) -> Files:
    """Programs that do nothing."""
    return dict.fromkeys(names, "#!/bin/sh\n")


@dataclass(frozen=True)
class Distribution:
    """A distribution's root on a filesystem of that `type`.

    `subvolumes` are those of a btrfs, parents first, `root` is the booted one, `mounts` are the
    others by mount point; `partitions` are further filesystems by mount point. @UUID@ in a file is
    the root's, @UUID:/boot@ that of the partition for /boot. `entry` is the file with the command
    line, relative to the machine's root, if its boot loader is not GRUB, `selected` its name as
    reported by systemd-boot. `device` is the root's name below /dev/mapper (LVM or LUKS), if fstab
    and the boot loader use it.
    """

    name: str
    type: str
    files: Files
    subvolumes: tuple[str, ...] = ()
    root: str = ""
    mounts: Mapping[str, str] = field(default_factory=dict)
    partitions: tuple[str, ...] = ()
    is_efi: bool = True
    grub: str = "grub"
    entry: str = ""
    line: str = ""
    selected: str = ""
    device: str = ""

    def fstab(self, write: Callable[[str], str] = lambda text: text) -> str:
        """The lines of fstab that the installer writes."""
        flags = f"subvol={self.root}" if self.root else "defaults"
        device = f"/dev/mapper/{self.device}" if self.device else "UUID=@UUID@"
        lines = [f"{device} / {self.type} {flags} 0 0"]
        lines += [f"{device} {p} btrfs subvol={s} 0 0" for p, s in self.mounts.items()]
        lines += [f"UUID=@UUID:{point}@ {point} ext4 defaults 0 2" for point in self.partitions]
        return write("\n".join(lines) + "\n")


def write(root: Path, files: Files, uuids: Mapping[str, str]) -> None:
    """Write *files* below *root*; a name that ends in `/.` is a directory, `a -> b` a link."""
    for name, text in files.items():
        content = text
        for point, uuid in uuids.items():
            content = content.replace(f"@UUID{point and ':' + point}@", uuid)
        place, _, target = name.partition(" -> ")
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        if target:
            path.symlink_to(target)
        elif place.endswith("/."):
            path.mkdir(exist_ok=True)
        else:
            path.write_text(content)
            path.chmod(0o755 if content.startswith("#!") else 0o644)


_OS = "etc/os-release -> ../usr/lib/os-release"
DRACUT = programs("usr/bin/dracut")
APT = {**programs("usr/bin/apt-get"), "var/lib/dpkg/status": "x"}
RPM: Files = {"usr/lib/sysimage/rpm/rpmdb.sqlite": "x", "var/lib/.": "",
              "var/lib/rpm -> ../../usr/lib/sysimage/rpm": ""}  # fmt: skip


def _os(id_: str) -> Files:
    return {"usr/lib/os-release": f"ID={id_}\n", _OS: ""}


def _debian(
    name: str,
    type_: str,
    *,
    efi: bool,
    swap: bool = False,
    id_: str = "debian",
    partitions: tuple[str, ...] = (),
) -> Distribution:
    own: Files = {
        **COMMON, **SYSTEMD, **_os(id_), **APT, **DRACUT, **kernels(), **grub(),
        "usr/sbin/update-grub": MKCONFIG.replace("@GRUB@", "grub"),
    }  # fmt: skip
    return Distribution(
        name,
        type_,
        {**own, **({"swap.img": "@SWAP@"} if swap else {})},
        subvolumes=("@rootfs",) if type_ == "btrfs" else (),
        root="@rootfs" if type_ == "btrfs" else "",
        partitions=(*partitions, *(("/boot/efi",) if efi else ())),
        is_efi=efi,
    )


_SUSE = ("var", "usr/local", "srv", "root", "opt", "home")


def _suse() -> Distribution:
    return Distribution(
        "openSUSE Tumbleweed, GRUB", "btrfs",
        {**COMMON, **SYSTEMD, **_os("opensuse-tumbleweed"), **RPM, **DRACUT,
         **programs("usr/bin/zypper"), **grub("grub2", "2", "suse"),
         **kernels("vmlinuz-{}", "initrd-{}"), "usr/local/bin/mine": "x"},
        subvolumes=("@", *(f"@/{n}" if "/" not in n else "@/usr-local" for n in _SUSE),
                    "@/.snapshots", "@/.snapshots/1", "@/.snapshots/1/snapshot"),
        root="@/.snapshots/1/snapshot",
        mounts={f"/{n}": f"@/{n}" if "/" not in n else "@/usr-local" for n in _SUSE}
        | {"/.snapshots": "@/.snapshots"},
        partitions=("/boot/efi",),
        grub="grub2",
    )  # fmt: skip


def _entries(
    name: str, files: Files, root: str, mounts: Mapping[str, str], boot: tuple[str, ...], entry: str
) -> Distribution:
    return Distribution(
        name, "btrfs", {**COMMON, **SYSTEMD, **files},
        subvolumes=(root, *mounts.values()), root=root, mounts=mounts, partitions=boot,
        entry=entry, line=f"root=UUID=@UUID@ rootflags=subvol={root} rw quiet",
    )  # fmt: skip


_ARCH = {**_os("arch"), **programs("usr/bin/mkinitcpio", "usr/bin/pacman"),
         "var/lib/pacman/local/.": "",
         "etc/mkinitcpio.conf": "MODULES=(btrfs)\nHOOKS=(base systemd autodetect microcode modconf "
         "kms keyboard sd-vconsole block filesystems fsck)\n"}  # fmt: skip
_AT = {"/home": "@home", "/var/log": "@log", "/var/cache/pacman/pkg": "@pkg"}
_PRESET = "PRESETS=('default')\nALL_kver=/boot/vmlinuz-linux\n"


def _arch_with_grub(esp: str) -> Distribution:
    """Without a file of GRUB on the ESP, which its first stage does not need."""
    return Distribution(
        f"Arch, GRUB, {esp}", "btrfs",
        {**COMMON, **SYSTEMD, **_ARCH, **grub(stub=""), "boot/vmlinuz-linux": "x",
         "boot/initramfs-linux.img": "x",
         "etc/mkinitcpio.d/linux.preset": _PRESET + "default_image=/boot/initramfs-linux.img\n"},
        subvolumes=("@", *_AT.values()), root="@", mounts=_AT, partitions=(esp,),
    )  # fmt: skip


def _fedora_without_boot() -> Distribution:
    """With custom partitioning: /boot is on the root, and there are no entries."""
    return Distribution(
        "Fedora, btrfs, /boot on the root", "btrfs",
        {**COMMON, **SYSTEMD, **_os("fedora"), **RPM, **DRACUT, **grub("grub2", "2", "fedora"),
         **kernels("vmlinuz-{}", "initramfs-{}.img")},
        subvolumes=("root", "home"), root="root", mounts={"/home": "home"},
        partitions=("/boot/efi",), grub="grub2",
    )  # fmt: skip


_TOKEN = COMMON["etc/machine-id"].strip()


def _kernel_install(name: str, esp: str, root: str) -> Distribution:
    """systemd-boot by kernel-install: it copies the files that Debian's hooks build in /boot to the
    ESP.
    """
    entry = f"{esp[1:]}/loader/entries/{_TOKEN}-{RELEASE}.conf"
    place = f"/{_TOKEN}/{RELEASE}"
    add = (
        "#!/bin/sh\nset -e\n[ $# = 4 ] && [ -e $3 ] && [ -e $4 ]\n"
        f'sed "s|^|options |" /etc/kernel/cmdline > /{entry}\n'
    )
    one = _debian(name, "btrfs", efi=False)
    without = {n: t for n, t in one.files.items() if "grub" not in n}
    return Distribution(
        name, "btrfs",
        {**without, "usr/bin/kernel-install": add, "etc/kernel/cmdline": "@LINE@\n",
         entry: f"title Debian\nversion {RELEASE}\nlinux {place}/linux\n"
         f"initrd {place}/initrd.img-{RELEASE}\noptions @LINE@\n",
         f"{esp[1:]}{place}/linux": "x", f"{esp[1:]}{place}/initrd.img-{RELEASE}": "x"},
        subvolumes=tuple(root[: n] for n, c in enumerate(f"{root}/") if c == "/"), root=root,
        partitions=(esp,), entry=entry, selected=f"{_TOKEN}-{RELEASE}.conf",
        line=f"root=UUID=@UUID@ rootflags=subvol={root} rw quiet",
    )  # fmt: skip


def _with_grub_left_over(one: Distribution) -> Distribution:
    """The package and menu of GRUB exist, but another boot loader starts the machine."""
    menu = f"linux /@rootfs/boot/vmlinuz-{RELEASE} root=UUID=@UUID@\n"
    left = {**grub(), "boot/grub/grub.cfg": menu,
            "usr/sbin/grub-install": "#!/bin/sh\necho GRUB is left over; exit 1\n",
            "usr/sbin/update-grub": "#!/bin/sh\necho GRUB is left over; exit 1\n"}  # fmt: skip
    return replace(one, name=f"{one.name}, GRUB left over", files={**one.files, **left})


def _void(type_: str) -> Distribution:
    return Distribution(
        f"Void, {type_}", type_,
        {**COMMON, **_os("void"), **DRACUT, **programs("usr/bin/xbps-install", "usr/bin/init"),
         **grub(), "usr/bin/update-grub": MKCONFIG.replace("@GRUB@", "grub"),
         **kernels("vmlinuz-{}", "initramfs-{}.img"), "var/db/xbps/.": "",
         "etc/runit/2": "#!/bin/sh\n"},
        subvolumes=("@",) if type_ == "btrfs" else (), root="@" if type_ == "btrfs" else "",
        partitions=("/boot/efi",),
    )  # fmt: skip


ALL: tuple[Distribution, ...] = (
    _debian("Debian, btrfs, UEFI", "btrfs", efi=True),
    _debian("Debian, btrfs, BIOS", "btrfs", efi=False),
    _debian("Debian, ext4, UEFI", "ext4", efi=True),
    _debian("Debian, ext4, BIOS", "ext4", efi=False),
    _debian("Debian, ext4, /home and swap", "ext4", efi=True, swap=True, partitions=("/home",)),
    _debian("Debian, ext4, /boot", "ext4", efi=True, partitions=("/boot",)),
    _debian("Debian, btrfs, a swap file", "btrfs", efi=False, swap=True),
    _debian("Ubuntu, ext4, a swap file", "ext4", efi=True, swap=True, id_="ubuntu"),
    _entries(
        "Fedora, btrfs, entries",
        {**_os("fedora"), **RPM, **DRACUT, "etc/default/grub": "GRUB_ENABLE_BLSCFG=true\n",
         "usr/bin/grubby": "#!/bin/sh\nset -e\nsed -i \"/^options/s|$| ${2#--args=}|\""
         " /boot/loader/entries/*.conf\n",
         "boot/loader/entries/one.conf": "title Fedora\noptions @LINE@\n",
         "boot/grub2/grub.cfg": "blscfg\n", **kernels("vmlinuz-{}", "initramfs-{}.img")},
        "root", {"/home": "home"}, ("/boot", "/boot/efi"), "boot/loader/entries/one.conf",
    ),
    _suse(),
    _entries(
        "openSUSE Tumbleweed, systemd-boot",
        {**_os("opensuse-tumbleweed"), **RPM, **DRACUT,
         "usr/bin/sdbootutil": "#!/bin/sh\nset -e\n[ \"$1\" = update-all-entries ]\n"
         "sed \"s|^|options |\" /etc/kernel/cmdline > /boot/efi/loader/entries/one.conf\n",
         "etc/kernel/cmdline": "@LINE@\n",
         "boot/efi/loader/entries/one.conf": "options @LINE@\n"},
        "@", {"/home": "@home", "/var": "@var"}, ("/boot/efi",),
        "boot/efi/loader/entries/one.conf",
    ),
    _entries(
        "Arch, archinstall, systemd-boot",
        {**_ARCH, "boot/vmlinuz-linux": "x", "boot/initramfs-linux.img": "x",
         "etc/mkinitcpio.d/linux.preset": _PRESET + "default_image=/boot/initramfs-linux.img\n",
         "boot/loader/loader.conf": "timeout 3\n",
         "boot/loader/entries/one.conf": "title Arch\noptions @LINE@\n"},
        "@", _AT, ("/boot",), "boot/loader/entries/one.conf",
    ),
    _entries(
        "Arch, unified image",
        {**_ARCH, "boot/vmlinuz-linux": "x", "boot/EFI/Linux/arch-linux.efi": "x",
         "etc/mkinitcpio.d/linux.preset": _PRESET + "default_uki=/boot/EFI/Linux/arch-linux.efi\n",
         "usr/bin/mkinitcpio": "#!/bin/sh\ncp /etc/kernel/cmdline /boot/EFI/Linux/cmdline\n",
         "boot/EFI/Linux/cmdline": "@LINE@\n", "etc/kernel/cmdline": "@LINE@\n"},
        "@", _AT, ("/boot",), "boot/EFI/Linux/cmdline",
    ),
    _arch_with_grub("/boot/efi"),
    _arch_with_grub("/efi"),
    _kernel_install("Debian, systemd-boot, /efi", "/efi", "@rootfs"),
    _kernel_install("Debian, systemd-boot, /boot/efi, nested", "/boot/efi", "systems/debian"),
    _with_grub_left_over(_kernel_install("Debian, systemd-boot, /efi", "/efi", "@rootfs")),
    replace(_debian("Debian, LUKS and LVM, btrfs, /boot", "btrfs", efi=True,
                    partitions=("/boot",)), device="box--vg-root"),
    replace(_debian("Debian, LVM, ext4", "ext4", efi=False), device="box--vg-root"),
    replace(_arch_with_grub("/boot/efi"), name="Arch, LUKS, GRUB", device="luks-3f0c"),
    _fedora_without_boot(),
    _void("ext4"),
    _void("btrfs"),
    Distribution(
        "Gentoo, xfs, OpenRC", "xfs",
        {**COMMON, **_os("gentoo"), **DRACUT, **programs("usr/bin/emerge", "usr/bin/init"),
         **grub(), **kernels("vmlinuz-{}", "initramfs-{}.img"), "var/db/pkg/.": "",
         "etc/runlevels/default/.": ""},
        partitions=("/efi",), is_efi=False,
    ),
    Distribution(
        "Raspberry Pi OS, ext4", "ext4",
        {**COMMON, **SYSTEMD, **_os("debian"), **APT, **DRACUT, **kernels(),
         "boot/firmware/cmdline.txt": "@LINE@\n", "boot/firmware/kernel8.img": "x",
         "boot/firmware/initramfs8": "x"},
        partitions=("/boot/firmware",), is_efi=False, entry="boot/firmware/cmdline.txt",
        line="console=tty1 root=UUID=@UUID@ rootfstype=ext4 rootwait quiet",
    ),
)  # fmt: skip
