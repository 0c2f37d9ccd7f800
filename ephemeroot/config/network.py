"""Volumes on the network: their server's address, what the kernel must be told, ``[network]``.

mount.nfs and mount.cifs look names up and add options of their own; in the initramfs there
is neither of them, nor a resolver. So all that is done here, when the plan is made.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Iterable
from typing import TypeAlias

from ephemeroot.config.declared import Declared
from ephemeroot.config.model import Configuration, NetworkEntry, Volume
from ephemeroot.config.syntax import addresses
from ephemeroot.config.syntax.problem import Mistake, Place, Problem
from ephemeroot.config.volumes import covering
from ephemeroot.hooks.operations import network
from ephemeroot.machine import files, fstab
from ephemeroot.machine.facts import Machine, command_line

_NFS = ("nfs", "nfs4")
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

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


def resolve(
    config: Configuration, machine: Machine, mounted: Iterable[Volume], problems: list[Problem]
) -> list[Volume]:
    """The volumes with what the kernel needs in the options of those on the network.

    Mistakes in them and in ``[network]`` go to *problems*.
    """
    found = []
    remote = []
    is_used = False
    for volume in mounted:
        if is_on_network(volume):
            is_used = True
            try:
                remote.append(_for_kernel(volume, machine, problems))
                found.append(remote[-1])
                continue
            except Mistake as mistake:
                problems.append(Problem.at(volume.place, mistake.reason, mistake.hint))
        elif volume.needed_for_boot and volume.type == "9p":
            _require_virtio(volume, problems)
        found.append(volume)
    if config.network is not None:
        if not is_used:
            _warn_of_no_use(config.network, problems)
        _check(config.network, remote, problems)
    elif remote and config.complete:
        _ask_for_network(remote[0], machine, problems)
    return found


def is_on_network(volume: Volume) -> bool:
    """Whether the initramfs needs the network to mount it."""
    return volume.needed_for_boot and volume.type in network.TYPES


def is_needed(mounted: Iterable[Volume]) -> bool:
    """Whether the initramfs mounts something from the network."""
    return any(is_on_network(volume) for volume in mounted)


def patience(mounted: Iterable[Volume]) -> int:
    """Seconds that the network itself may take to come up: the longest of its volumes; 0 is
    without end.
    """
    timeouts = [volume.timeout for volume in mounted if is_on_network(volume)]
    return 0 if 0 in timeouts else max(timeouts)


def check_overlays(
    declared: Iterable[Declared], mounted: Iterable[Volume], problems: list[Problem]
) -> None:
    """An overlay's upper layer must be on a filesystem that can rename with flags and hold
    trusted extended attributes (the kernel's Documentation/filesystems/overlayfs.rst).
    """
    remote = [volume for volume in mounted if is_on_network(volume) or volume.type == "9p"]
    for entry in declared:
        volume = covering(entry.store, remote)
        if entry.options.method == "overlay" and volume is not None:
            problems.append(
                Problem.at(
                    entry.place,
                    f"{entry.path} cannot be an overlay in the store {entry.store}: the layer "
                    f"with the changes cannot be on a {volume.type}",
                    'use method = "bind", or a store on a disk',
                )
            )


def _for_kernel(volume: Volume, machine: Machine, problems: list[Problem]) -> Volume:
    options = [o for o in volume.options if o not in _TRYING and not o.startswith("retry=")]
    if volume.type in _NFS:
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


def _require_virtio(volume: Volume, problems: list[Problem]) -> None:
    transport = fstab.option(volume.options, "trans")
    if transport != "virtio":
        problems.append(
            Problem.at(
                volume.place,
                f"a 9p volume by {transport or 'no named transport'}: only what the hypervisor "
                "shares can be mounted in the initramfs",
                'add "trans=virtio" to options, or use nfs4',
            )
        )


def _check_numbers(options: list[str], type_: str) -> None:
    """What the kernel refuses (fs/nfs/fs_context.c, fs/smb/client/fs_context.c)."""
    for option in options:
        key, equals, given = option.partition("=")
        if not equals or (key not in _PORTS and not (type_ in _NFS and key in _NUMBERS)):
            continue
        least, most = _NUMBERS.get(key, (0, _LAST_PORT))
        if given.isascii() and given.isdigit() and least <= int(given) <= most:
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
        if equals and key in (_NFS_ADDRESSES if type_ in _NFS else _CIFS_ADDRESSES):
            try:
                ipaddress.ip_address(given)
            except ValueError:
                raise Mistake(
                    f"{key}={given} is not an address, and the initramfs looks no names up",
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
    if type_ not in _NFS:
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
        f"the address of the server {plain} is not known: the initramfs looks no names up",
        f"write its address, or a line for {plain} in {machine.show('/etc/hosts')}",
    )


def _nfs(volume: Volume, options: list[str], problems: list[Problem]) -> tuple[str, list[str]]:
    named = _NFS_DEVICE.fullmatch(volume.device)
    if named is None:
        raise Mistake(
            f"{volume.device!r} names no server", f"a {volume.type} device is SERVER:/PATH"
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
        raise Mistake("NFS 2 is long gone from the kernel", "use nfs4")
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
                f"{volume.mount_point} is mounted soft: what is being written when the server "
                "is away is lost",
                'leave "soft" out; the time-out of the boot is the volume\'s own',
                warning=True,
            )
        )
    return named[1], options


def _cifs(volume: Volume, options: list[str], problems: list[Problem]) -> tuple[str, list[str]]:
    named = _CIFS_DEVICE.fullmatch(volume.device)
    if named is None:
        raise Mistake(
            f"{volume.device!r} names no server", f"a {volume.type} device is //SERVER/SHARE"
        )
    values = {o.partition("=")[0] for o in options}
    if values & {"credentials", "cred"}:
        raise Mistake(
            "a file with credentials is read by mount.cifs, which the initramfs does not have",
            "write username=… and password=… (the plan and the images are root's alone), or "
            "use nfs4",
        )
    if (fstab.option(options, "sec") or "").startswith("krb5"):
        raise Mistake("sec=krb5 needs a daemon, which the initramfs does not have", "use nfs4")
    if not values & {"guest", "user", "username"}:
        raise Mistake("nothing says who logs in to the server", 'add "guest", or "username=…"')
    for name in ("uid", "gid"):
        value = fstab.option(options, name)
        if value is not None and not value.isdigit():
            raise Mistake(f"{name}={value} is no number", "the kernel knows no names")
    if not values & {"uid", "gid", "file_mode", "dir_mode"}:
        problems.append(
            Problem.at(
                volume.place,
                f"nothing says whose {volume.mount_point} is: {volume.type} keeps no owners and "
                "modes, so all on it will be root's",
                'add "uid=…", "gid=…", "file_mode=…" and "dir_mode=…" to options',
                warning=True,
            )
        )
    return named[1], options


# The table [network]


def _check(entry: NetworkEntry, remote: list[Volume], problems: list[Problem]) -> None:
    place = entry.origin.place
    networks = [ipaddress.ip_interface(address).network for address in entry.addresses]
    own = {ipaddress.ip_interface(address).ip for address in entry.addresses}
    for gateway in entry.gateways:
        _check_gateway(ipaddress.ip_address(gateway), networks, own, entry, problems)
    versions = {ipaddress.ip_address(gateway).version for gateway in entry.gateways}
    for volume in remote:
        named = network.address(list(volume.options), volume.type)
        server = ipaddress.ip_address(named or "")
        if server in own:
            problems.append(
                Problem.at(
                    volume.place,
                    f"the server {server} of {volume.mount_point} is this machine's own address",
                    f"compare it with address in [network] ({place})",
                )
            )
            continue
        if isinstance(server, ipaddress.IPv6Address) and server.is_link_local:
            # Reached on its link, without a router.
            _check_link(server, entry, volume, problems)
            continue
        if server.version not in versions and not any(server in n for n in networks):
            problems.append(
                Problem.at(
                    volume.place,
                    f"the server {server} is in none of the networks of [network], and there is "
                    "no gateway",
                    f"add gateway to [network] ({place})",
                )
            )


def _warn_of_no_use(entry: NetworkEntry, problems: list[Problem]) -> None:
    problems.append(
        Problem.at(
            entry.origin.place,
            "[network] is for volumes on the network, and there is none",
            "remove it: the real system sets up its network by itself",
            warning=True,
        )
    )


def _check_gateway(
    gateway: _Address,
    networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network],
    own: set[_Address],
    entry: NetworkEntry,
    problems: list[Problem],
) -> None:
    around = next((one for one in networks if gateway in one), None)
    if gateway in own:
        reason = f"the gateway {gateway} is this machine's own address"
        hint = "write the router's address ('ip route' shows it)"
    elif around is None and not gateway.is_link_local:
        reason = f"the gateway {gateway} is in none of the networks of the interface"
        hint = "compare it with address, and with its length"
    elif around is not None and addresses.is_no_host(gateway, around):
        reason = f"the gateway {gateway} is the address of all of {around}, not of a router in it"
        hint = "write the router's address ('ip route' shows it)"
    else:
        return
    problems.append(Problem.at(entry.origin.of("gateway"), reason, hint))


def _check_link(
    server: ipaddress.IPv6Address, entry: NetworkEntry, volume: Volume, problems: list[Problem]
) -> None:
    """An interface that is named by its MAC address cannot be compared."""
    if ":" not in entry.interface and server.scope_id != entry.interface:
        problems.append(
            Problem.at(
                volume.place,
                f"the server {server} of {volume.mount_point} is on the link of "
                f"{server.scope_id}, and [network] sets up {entry.interface}",
                f"name the same interface in both ({entry.origin.place})",
            )
        )


def _ask_for_network(volume: Volume, machine: Machine, problems: list[Problem]) -> None:
    """A warning: what boots may be set up elsewhere."""
    for file, text in machine.command_lines:
        line = command_line(text)
        if not any(line.has(word) for word in ("ip", "rd.neednet", "BOOTIF", "netroot")):
            problems.append(
                Problem.at(
                    Place(file, "ip"),
                    f"nothing here sets up the network for {volume.mount_point} in the initramfs",
                    'add "rd.neednet=1 ip=dhcp" to the kernel command line, or write [network]',
                    warning=True,
                )
            )
            return
