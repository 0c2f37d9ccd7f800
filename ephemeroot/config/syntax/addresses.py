"""The kinds of values in ``[network]``."""

from __future__ import annotations

import ipaddress
import re

from ephemeroot.config.syntax.kinds import Kind, Patterns, Schema
from ephemeroot.config.syntax.problem import Mistake

_MAC = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")

# include/uapi/linux/if.h, IFNAMSIZ and ALTIFNAMSIZ, without the final NUL
_LONGEST = 127


class Interface(Kind):
    """A network interface, by name or MAC address."""

    word = "the name or the MAC address of an interface"

    def parse(self, value: object) -> str:
        text = self.text(value)
        if _MAC.fullmatch(text):
            return text.lower()
        if len(text.encode()) > _LONGEST or "/" in text or any(c.isspace() for c in text):
            raise Mistake(
                f"{text!r} is not the name of an interface", "run 'ip link' to list the names"
            )
        return text

    def schema(self) -> Schema:
        return {"type": "string", "minLength": 1, "maxLength": _LONGEST}


class InterfaceAddresses(Patterns):
    """An address with its prefix length, or several."""

    word = 'an address such as "192.168.1.7/24", or a list of them'

    def item(self, text: str) -> str:
        try:
            address = ipaddress.ip_interface(text)
        except ValueError:
            raise Mistake(f"{text!r} is not an address", f"write {self.word}") from None
        if "/" not in text:
            raise Mistake(
                f"{text!r} has no prefix length",
                f'add it, for example "{text}/{24 if address.version == 4 else 64}"',
            )
        require_unicast(address.ip, text)
        network = address.network
        if network.num_addresses > 2 and address.ip == network.network_address:
            raise Mistake(
                f"{text!r} is the address of a network, not of a machine",
                f'write the address of this machine, such as "{network[1]}/{network.prefixlen}"',
            )
        if address.version == 4 and network.num_addresses > 2:
            if address.ip == network.broadcast_address:
                raise Mistake(
                    f"{text!r} is the broadcast address of its network",
                    "write the address of this machine",
                )
        return str(address)


def is_no_host(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
    network: ipaddress.IPv4Network | ipaddress.IPv6Network,
) -> bool:
    """Whether *address* is the network address or the broadcast address of *network*."""
    if network.num_addresses <= 2:
        return False
    if address == network.network_address:
        return True
    return network.version == 4 and address == network.broadcast_address


def require_unicast(address: ipaddress.IPv4Address | ipaddress.IPv6Address, text: str) -> None:
    """Raise ``Mistake`` for an address at which no other machine can be reached."""
    for is_wrong, word in (
        (address.is_multicast, "a multicast address"),
        (address.is_loopback, "a loopback address"),
        (address.is_unspecified, "the unspecified address"),
        (str(address) == "255.255.255.255", "the broadcast address"),
    ):
        if is_wrong:
            raise Mistake(f"{text!r} is {word}", "write the address of one machine")


class Gateways(Patterns):
    """The address of a router, or one for each protocol."""

    word = "the address of a router, or a list of them"

    def parse(self, value: object) -> list[str]:
        found = super().parse(value)
        if len({ipaddress.ip_address(text).version for text in found}) < len(found):
            raise Mistake(
                "there are several default routers for one protocol",
                "name one router for each protocol",
            )
        return found

    def item(self, text: str) -> str:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            raise Mistake(
                f"{text!r} is not the address of a router", 'write an address such as "192.168.1.1"'
            ) from None
        require_unicast(address, text)
        if "%" in text:
            plain = text.partition("%")[0]
            raise Mistake(
                f"{text!r} names an interface, which is already set in [network]",
                f'write "{plain}"',
            )
        return str(address)
