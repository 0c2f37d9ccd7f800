"""Mount options of network volumes for the kernel: the server's address, and the options that
mount.nfs and mount.cifs would add.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re

from ephemeroot.config.model import Volume
from ephemeroot.config.syntax import addresses
from ephemeroot.config.syntax.problem import Mistake, Problem
from ephemeroot.linux import values
from ephemeroot.machine import files, fstab
from ephemeroot.machine.facts import Machine

NFS = ("nfs", "nfs4")
_NFS_DEVICE = re.compile(r"(\[[^]/]+\]|[^]/:\[]+):(/.*)")
_CIFS_DEVICE = re.compile(r"//([^/]+)/[^/]+.*")

# Options for mount.nfs only (nfs(5)); the stage retries for the time of `timeout`.
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
    """*volume* with the options for mount(2). Raises ``Mistake`` for an option that the kernel
    refuses.
    """
    options = [o for o in volume.options if o not in _TRYING and not o.startswith("retry=")]
    if volume.type in NFS:
        server, options = _nfs(volume, options, problems)
        key = "addr="
    else:
        server, options = _cifs(volume, options, problems)
        key = "ip="
        # The kernel accepts this option with both names.
        options = [f"ip={o[len('addr=') :]}" if o.startswith("addr=") else o for o in options]
    _check_numbers(options, volume.type)
    _check_own_addresses(options, volume.type)
    address = _address(fstab.option(options, key[:-1]) or server, machine)
    addresses.require_unicast(ipaddress.ip_address(address), address)
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
                f"cannot mount {volume.mount_point} in the initramfs: the 9p transport is "
                f"{transport or 'not set'}, not virtio",
                'add "trans=virtio" to options, or use nfs4',
            )
        )


def _check_numbers(options: list[str], type_: str) -> None:
    """Raise ``Mistake`` for a number that the kernel refuses (fs/nfs/fs_context.c,
    fs/smb/client/fs_context.c).
    """
    for option in options:
        key, equals, given = option.partition("=")
        if not equals or (key not in _PORTS and not (type_ in NFS and key in _NUMBERS)):
            continue
        least, most = _NUMBERS.get(key, (0, _LAST_PORT))
        number = values.number(given)
        if number is not None and least <= number <= most:
            continue
        if key in _PORTS:
            raise Mistake(f"{key}={given} is not a port", "set a number from 1 to 65535")
        raise Mistake(
            f"the kernel does not accept {key}={given}", f"set a number from {least} to {most}"
        )


def _check_own_addresses(options: list[str], type_: str) -> None:
    """Raise ``Mistake`` for a name in an option for which the kernel needs an address."""
    for option in options:
        key, equals, given = option.partition("=")
        if equals and key in (_NFS_ADDRESSES if type_ in NFS else _CIFS_ADDRESSES):
            try:
                ipaddress.ip_address(given)
            except ValueError:
                raise Mistake(
                    f"{key}={given} is not an address, and the initramfs cannot resolve names",
                    "set the address",
                ) from None


def _check_scope(address: str, type_: str) -> None:
    """A link-local address needs an interface. The kernel's NFS takes its name (net/sunrpc/addr.c),
    its SMB only its number (fs/smb/client/netmisc.c), which can differ at each boot.
    """
    parsed = ipaddress.ip_address(address)
    if not isinstance(parsed, ipaddress.IPv6Address):
        return
    if not parsed.is_link_local:
        if parsed.scope_id:
            plain = address.partition("%")[0]
            raise Mistake(
                f"the server's address {address} names an interface, but is not link-local: the "
                "kernel does not accept it",
                f"set the address {plain}",
            )
        return
    if type_ not in NFS:
        raise Mistake(
            f"the server's address {address} is link-local, and the kernel's {type_} does not "
            "accept the name of an interface",
            "use another address of the server, or nfs4",
        )
    if not parsed.scope_id:
        raise Mistake(
            f"the server's address {address} is link-local, but does not name an interface",
            f"add the interface, for example {address}%eth0",
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
        f"set its address, or add {plain} to {machine.show('/etc/hosts')}",
    )


def _nfs(volume: Volume, options: list[str], problems: list[Problem]) -> tuple[str, list[str]]:
    named = _NFS_DEVICE.fullmatch(volume.device)
    if named is None:
        raise Mistake(
            f"{volume.device!r} does not name a server",
            f"set device to SERVER:/PATH, as {volume.type} needs it",
        )
    security = fstab.option(options, "sec")
    if security not in (None, "sys", "none"):
        raise Mistake(
            f"sec={security} needs a daemon (rpc.gssd), which the initramfs does not have",
            "export the store with sec=sys, only to this machine's address",
        )
    version = next((v for k in ("vers", "nfsvers") if (v := fstab.option(options, k))), None)
    if version is None:
        version = "4.2"
        options = [*options, "vers=4.2"]  # mount.nfs tries this version first too
    if volume.type == "nfs4" and not version.startswith("4"):
        raise Mistake(f"vers={version} is not nfs4", 'set type = "nfs"')
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
                f"{volume.mount_point} has the option soft: data that is written while the server "
                "does not answer is lost",
                'remove "soft"; the timeout of the volume limits the boot',
                warning=True,
            )
        )
    return named[1], options


def _cifs(volume: Volume, options: list[str], problems: list[Problem]) -> tuple[str, list[str]]:
    named = _CIFS_DEVICE.fullmatch(volume.device)
    if named is None:
        raise Mistake(
            f"{volume.device!r} does not name a server",
            f"set device to //SERVER/SHARE, as {volume.type} needs it",
        )
    keys = {o.partition("=")[0] for o in options}
    if keys & {"credentials", "cred"}:
        raise Mistake(
            "the initramfs cannot read a file with credentials: it does not have mount.cifs",
            "set username=… and password=… (only root can read the plan and the images), or use "
            "nfs4",
        )
    if (fstab.option(options, "sec") or "").startswith("krb5"):
        raise Mistake("sec=krb5 needs a daemon, which the initramfs does not have", "use nfs4")
    if not keys & {"guest", "user", "username"}:
        raise Mistake("the user name for the server is missing", 'add "guest", or "username=…"')
    for name in ("uid", "gid"):
        value = fstab.option(options, name)
        if value is not None and values.number(value, 10) is None:
            raise Mistake(f"{name}={value} is not a number", "set the number of the user or group")
    if not keys & {"uid", "gid", "file_mode", "dir_mode"}:
        problems.append(
            Problem.at(
                volume.place,
                f"root will own all files of {volume.mount_point}: {volume.type} stores neither "
                "owners nor modes",
                'add "uid=…", "gid=…", "file_mode=…" and "dir_mode=…" to options',
                warning=True,
            )
        )
    return named[1], options
