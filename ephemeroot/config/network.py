"""Volumes on the network: the address of their server, options for the kernel, ``[network]``.

mount.nfs and mount.cifs resolve names and add options. The initramfs has neither of them, and no
resolver. So names are resolved and options added here, when the plan is made.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import TypeAlias

from ephemeroot.config.declared import Declared
from ephemeroot.config.model import Configuration, NetworkEntry, Volume
from ephemeroot.config.network_options import for_kernel, require_virtio
from ephemeroot.config.syntax import addresses
from ephemeroot.config.syntax.problem import Mistake, Place, Problem
from ephemeroot.config.volumes import covering
from ephemeroot.hooks.operations import network
from ephemeroot.machine.facts import Machine, command_line

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


def resolve(
    config: Configuration, machine: Machine, mounted: Iterable[Volume], problems: list[Problem]
) -> list[Volume]:
    """The volumes, those on the network with all options that the kernel needs.

    Errors in them and in ``[network]`` go to *problems*.
    """
    found = []
    remote = []
    is_used = False
    for volume in mounted:
        if is_on_network(volume):
            is_used = True
            try:
                remote.append(for_kernel(volume, machine, problems))
                found.append(remote[-1])
                continue
            except Mistake as mistake:
                problems.append(Problem.at(volume.place, mistake.reason, mistake.hint))
        elif volume.needed_for_boot and volume.type == "9p":
            require_virtio(volume, problems)
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
    """The time limit in seconds for the network to come up: the longest of its volumes, 0 for an
    unlimited time.
    """
    timeouts = [volume.timeout for volume in mounted if is_on_network(volume)]
    return 0 if 0 in timeouts else max(timeouts)


def check_overlays(
    declared: Iterable[Declared], mounted: Iterable[Volume], problems: list[Problem]
) -> None:
    """The upper layer of an overlay must be on a filesystem with renameat2(2) flags and trusted
    extended attributes (the kernel's Documentation/filesystems/overlayfs.rst).
    """
    remote = [volume for volume in mounted if is_on_network(volume) or volume.type == "9p"]
    for entry in declared:
        volume = covering(entry.store, remote)
        if entry.options.method == "overlay" and volume is not None:
            problems.append(
                Problem.at(
                    entry.place,
                    f"{entry.path} cannot be an overlay in the store {entry.store}: "
                    f"{volume.type} does not support overlays",
                    'set method = "bind", or use a store on a disk',
                )
            )


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
                    f"correct it, or address in [network] ({place})",
                )
            )
            continue
        if isinstance(server, ipaddress.IPv6Address) and server.is_link_local:
            # A link-local server needs no router.
            _check_link(server, entry, volume, problems)
            continue
        around = next((one for one in networks if server in one), None)
        if around is not None and addresses.is_no_host(server, around):
            reason = f"the server {server} is the address of all of {around}, not of a machine"
            problems.append(Problem.at(volume.place, reason, "write the server's address"))
        if server.version not in versions and around is None:
            problems.append(
                Problem.at(
                    volume.place,
                    f"cannot reach the server {server} of {volume.mount_point}: it is not in a "
                    "network of [network], which has no gateway",
                    f"add gateway to [network] ({place})",
                )
            )


def _warn_of_no_use(entry: NetworkEntry, problems: list[Problem]) -> None:
    problems.append(
        Problem.at(
            entry.origin.place,
            "[network] has no effect: no volume that is needed for boot is on the network",
            "remove [network]: the running system sets up its own network",
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
        hint = "set the router's address ('ip route' shows it)"
    elif around is None and not gateway.is_link_local:
        reason = f"the gateway {gateway} is not in a network of the interface"
        hint = "correct it, or address and its prefix length"
    elif around is not None and addresses.is_no_host(gateway, around):
        reason = f"the gateway {gateway} is the network or broadcast address of {around}"
        hint = "set the router's address ('ip route' shows it)"
    else:
        return
    problems.append(Problem.at(entry.origin.of("gateway"), reason, hint))


def _check_link(
    server: ipaddress.IPv6Address, entry: NetworkEntry, volume: Volume, problems: list[Problem]
) -> None:
    """Compare the interfaces, unless [network] names its interface by the MAC address."""
    if ":" not in entry.interface and server.scope_id != entry.interface:
        problems.append(
            Problem.at(
                volume.place,
                f"cannot reach the server {server} of {volume.mount_point}: its link is that of "
                f"{server.scope_id}, but [network] sets up {entry.interface}",
                f"name the same interface in both ({entry.origin.place})",
            )
        )


def _ask_for_network(volume: Volume, machine: Machine, problems: list[Problem]) -> None:
    """Warn about a kernel command line without network; it may be set elsewhere."""
    for file, text in machine.command_lines:
        line = command_line(text)
        if not any(line.has(word) for word in ("ip", "rd.neednet", "BOOTIF", "netroot")):
            problems.append(
                Problem.at(
                    Place(file, "ip"),
                    f"cannot mount {volume.mount_point} in the initramfs: no network is configured",
                    'add "rd.neednet=1 ip=dhcp" to the kernel command line, or declare [network]',
                    warning=True,
                )
            )
            return
