"""What the kernel must be told to mount a volume from the network, instead of mount.nfs and
mount.cifs: the server's address, and options that those add.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re

from ephemeroot.config.model import Volume
from ephemeroot.config.syntax.problem import Mistake, Problem
from ephemeroot.linux import values
from ephemeroot.machine import files, fstab
from ephemeroot.machine.facts import Machine

NFS = ("nfs", "nfs4")
_NFS_DEVICE = re.compile(r"(\[[^]/]+\]|[^]/:\[]+):(/.*)")
_CIFS_DEVICE = re.compile(r"//([^/]+)/[^/]+.*")

# For mount.nfs alone (nfs(5)); the stage tries for as long as `timeout` says.
_TRYING = ("bg", "fg", "sloppy", "_netdev")

_PORTS = ("port", "mountport")
_LAST_PORT = (1 << 16) - 1
_NUMBERS = {
    "timeo": (1, (1 << 31) - 1), "retrans": (0, (1 << 31) - 1), "nconnect": (1, 16),
    "max_connect": (1, 16),
}  # fmt: skip
_NFS_ADDRESSES = ("mountaddr", "clientaddr")
_CIFS_ADDRESSES = ("srcaddr",)


def for_kernel(volume: Volume, machine: Machine, problems: list[Problem]) -> Volume:
    """*volume* with the options that its filesystem gets from mount(2). Raises ``Mistake`` for one
    that the kernel would refuse.
    """
    options = [o for o in volume.options if o not in _TRYING and not o.startswith("retry=")]
    if volume.type in NFS:
        server, options = _nfs(volume, options, problems)
        key = "addr="
    else:
        server, options = _cifs(volume, options, problems)
        key = "ip="
        # The kernel knows the same option by both names.
        options = [f"ip={o[len('addr=') :]}" if o.startswith("addr=") else o for o in options]
    _check_numbers(options, volume.type)
    _check_own_addresses(options, volume.type)
    address = _address(fstab.option(options, key[:-1]) or server, machine)
    _check_scope(address, volume.type)
    options = [o for o in options if not o.startswith(key)]
    return dataclasses.replace(volume, options=(*options, f"{key}{address}"))


def require_virtio(volume: Volume, problems: list[Problem]) -> None:
    """Note a 9p *volume* that no driver of an initramfs can reach."""
    transport = fstab.option(volume.options, "trans")
    if transport != "virtio":
        problems.append(
            Problem.at(
                volume.place,
                f"a 9p volume by {transport or 'no named transport'}: only shares of the "
                "hypervisor can be mounted in the initramfs",
                'add "trans=virtio" to options, or use nfs4',
            )
        )


def _check_numbers(options: list[str], type_: str) -> None:
    """What the kernel refuses (fs/nfs/fs_context.c, fs/smb/client/fs_context.c)."""
    for option in options:
        key, equals, given = option.partition("=")
        if not equals or (key not in _PORTS and not (type_ in NFS and key in _NUMBERS)):
            continue
        least, most = _NUMBERS.get(key, (0, _LAST_PORT))
        number = values.number(given)
        if number is not None and least <= number <= most:
            continue
        if key in _PORTS:
            raise Mistake(f"{key}={given} is not a port", "write a number from 1 to 65535")
        raise Mistake(
            f"{key}={given} is refused by the kernel", f"write a number from {least} to {most}"
        )


def _check_own_addresses(options: list[str], type_: str) -> None:
    """Further options whose value the kernel takes for an address; it looks no names up."""
    for option in options:
        key, equals, given = option.partition("=")
        if equals and key in (_NFS_ADDRESSES if type_ in NFS else _CIFS_ADDRESSES):
            try:
                ipaddress.ip_address(given)
            except ValueError:
                raise Mistake(
                    f"{key}={given} is not an address, and the initramfs cannot resolve names",
                    "write the address",
                ) from None


def _check_scope(address: str, type_: str) -> None:
    """A link-local address is one only together with the interface. The kernel's NFS knows that by
    name (net/sunrpc/addr.c), its SMB by number only (fs/smb/client/netmisc.c), and numbers are not
    the same at each boot.
    """
    parsed = ipaddress.ip_address(address)
    if not isinstance(parsed, ipaddress.IPv6Address):
        return
    if not parsed.is_link_local:
        if parsed.scope_id:
            plain = address.partition("%")[0]
            raise Mistake(
                f"the server's address {address} names an interface and is not a link-local one: "
                "the kernel does not accept that",
                f"write {plain}",
            )
        return
    if type_ not in NFS:
        raise Mistake(
            f"the server's address {address} is valid on one link only, and the kernel's {type_} "
            "does not accept the name of an interface",
            "use another address of the server, or nfs4",
        )
    if not parsed.scope_id:
        raise Mistake(
            f"the server's address {address} is valid on one link only",
            f"name the interface: {address}%eth0",
        )


def _address(server: str, machine: Machine) -> str:
    """The numeric address of *server*, with its scope. Raises ``Mistake``."""
    plain = server.strip("[]")
    try:
        return str(ipaddress.ip_address(plain))
    except ValueError:
        pass
    for line in (files.read_text(machine.root, "/etc/hosts") or "").splitlines():
        words = line.partition("#")[0].split()
        if plain.lower() in (word.lower() for word in words[1:]):
            try:
                return str(ipaddress.ip_address(words[0]))
            except ValueError:
                continue
    raise Mistake(
        f"the address of the server {plain} is not known: the initramfs cannot resolve names",
        f"write its address, or a line for {plain} in {machine.show('/etc/hosts')}",
    )


def _nfs(volume: Volume, options: list[str], problems: list[Problem]) -> tuple[str, list[str]]:
    named = _NFS_DEVICE.fullmatch(volume.device)
    if named is None:
        raise Mistake(
            f"{volume.device!r} does not name a server", f"a {volume.type} device is SERVER:/PATH"
        )
    security = fstab.option(options, "sec")
    if security not in (None, "sys", "none"):
        raise Mistake(
            f"sec={security} needs a daemon (rpc.gssd), which the initramfs does not have",
            "export the store with sec=sys, to this machine's address alone",
        )
    version = next((v for k in ("vers", "nfsvers") if (v := fstab.option(options, k))), None)
    if version is None:
        version = "4.2"
        options = [*options, "vers=4.2"]  # mount.nfs tries this one first, too
    if volume.type == "nfs4" and not version.startswith("4"):
        raise Mistake(f"vers={version} is not nfs4", 'write type = "nfs"')
    if version.startswith("2"):
        raise Mistake("the kernel no longer supports NFS 2", "use nfs4")
    if version.startswith("3") and not {"nolock", "local_lock=all"} & set(options):
        raise Mistake(
            "locks over NFS 3 need a daemon (rpc.statd), which the initramfs does not have",
            'add "nolock" to options, or use nfs4',
        )
    if version in ("4", "4.0") and fstab.option(options, "clientaddr") is None:
        options = [*options, "clientaddr=0.0.0.0"]  # no call-backs, as mount.nfs does behind a NAT
    if {"soft", "softerr"} & set(options):
        problems.append(
            Problem.at(
                volume.place,
                f"{volume.mount_point} is mounted soft: data written while the server does not "
                "answer is lost",
                'remove "soft"; the volume\'s timeout already limits the boot',
                warning=True,
            )
        )
    return named[1], options


def _cifs(volume: Volume, options: list[str], problems: list[Problem]) -> tuple[str, list[str]]:
    named = _CIFS_DEVICE.fullmatch(volume.device)
    if named is None:
        raise Mistake(
            f"{volume.device!r} does not name a server", f"a {volume.type} device is //SERVER/SHARE"
        )
    keys = {o.partition("=")[0] for o in options}
    if keys & {"credentials", "cred"}:
        raise Mistake(
            "a file with credentials is read by mount.cifs, which the initramfs does not have",
            "write username=… and password=… (only root can read the plan and the images), or use "
            "nfs4",
        )
    if (fstab.option(options, "sec") or "").startswith("krb5"):
        raise Mistake("sec=krb5 needs a daemon, which the initramfs does not have", "use nfs4")
    if not keys & {"guest", "user", "username"}:
        raise Mistake("the user name for the server is missing", 'add "guest", or "username=…"')
    for name in ("uid", "gid"):
        value = fstab.option(options, name)
        if value is not None and values.number(value, 10) is None:
            raise Mistake(f"{name}={value} is not a number", "the kernel accepts only numbers")
    if not keys & {"uid", "gid", "file_mode", "dir_mode"}:
        problems.append(
            Problem.at(
                volume.place,
                f"the owner of {volume.mount_point} is not set: {volume.type} stores neither "
                "owners nor modes, so root will own all files",
                'add "uid=…", "gid=…", "file_mode=…" and "dir_mode=…" to options',
                warning=True,
            )
        )
    return named[1], options
