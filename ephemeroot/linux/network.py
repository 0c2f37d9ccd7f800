"""Links, addresses and routes through pyroute2; waits by netlink events, without polling.

pyroute2 takes 120 ms and 10 MB, so this module is in an image only if its plan has a network volume
(``image.closure``), and is imported only for one. Conditions are checked after the subscription to
events, and after each event, so that no change is missed.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# include/uapi/linux/if_addr.h, include/uapi/linux/if.h
_IFA_F_TENTATIVE = 0x40
_IFA_F_DADFAILED = 0x08
_IFF_UP = 0x1
_IFF_LOOPBACK = 0x8

_EEXIST = 17
_ENDLESS = float("inf")


def is_v6(address: str) -> bool:
    """Whether the numeric *address* is an IPv6 address."""
    return ":" in address


def _is_link_local(address: str) -> bool:
    return address.lower().startswith("fe80:")


class Network:
    """This network namespace, and its events. A context manager."""

    def __init__(self) -> None:
        import select

        from pyroute2 import IPRoute
        from pyroute2.netlink import rtnl

        self._kernel = IPRoute()
        self._events = IPRoute()
        self._events.bind(
            rtnl.RTMGRP_LINK
            | rtnl.RTMGRP_IPV4_IFADDR
            | rtnl.RTMGRP_IPV4_ROUTE
            | rtnl.RTMGRP_IPV6_IFADDR
            | rtnl.RTMGRP_IPV6_ROUTE
        )
        self._poll = select.poll()
        self._poll.register(self._events.fileno(), select.POLLIN)

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self._events.close()
        self._kernel.close()

    def wait(self, missing: Callable[[], str], deadline: float) -> None:
        """Wait until *missing* returns an empty text; it is called again after each event.

        *deadline* is on the monotonic clock, or infinite. Raises ``TimeoutError`` with its last
        result.
        """
        while True:
            word = missing()
            if not word:
                return
            if not self._event(deadline):
                raise TimeoutError(f"{word} ({self.describe()})")

    def _event(self, deadline: float) -> bool:
        """Wait for an event and read all pending ones; false after the deadline."""
        if not self._poll.poll(_milliseconds(deadline)):
            return False
        while self._poll.poll(0):
            try:
                list(self._events.get())
            except OSError:
                pass  # ENOBUFS: events were lost, but all conditions are checked anyway
        return True

    def missing_route(self, address: str) -> str:
        """What *address* needs and lacks: a route, its link's carrier, or a source address.

        Empty if nothing is missing. A link-local *address* names its interface (``fe80::1%eth0``).
        """
        _, _, interface = address.partition("%")
        if interface and (missing := self.missing_link(interface)):
            return missing
        route = self._route(address)
        if route is None:
            return f"there is no route to {address}"
        link = self._link(route.get_attr("RTA_OIF"))
        if link is None:
            return f"there is no route to {address}"
        name = link.get_attr("IFLA_IFNAME")
        if not link["flags"] & _IFF_UP or link.get_attr("IFLA_CARRIER") == 0:
            return f"{name}, on the route to {address}, has no carrier"
        # The kernel does not use an unconfirmed address (duplicate address detection, RFC 4862).
        source = route.get_attr("RTA_PREFSRC") or ""
        if not source or (_is_link_local(source) and not _is_link_local(address)):
            return f"{name}, on the route to {address}, has no usable address"
        return ""

    def _route(self, address: str) -> Any:
        """The kernel's route to *address*; ``None`` if there is none."""
        import socket

        from pyroute2.netlink.exceptions import NetlinkError

        family = socket.AF_INET6 if is_v6(address) else socket.AF_INET
        plain, _, interface = address.partition("%")
        way = {"oif": self.find(interface)["index"]} if interface else {}
        try:
            found = list(self._kernel.route("get", dst=plain, family=family, **way))
        except NetlinkError:  # ENETUNREACH, EHOSTUNREACH, or a route that prohibits
            return None
        return found[0] if found else None

    def _link(self, index: int) -> Any:
        return next((link for link in self._links() if link["index"] == index), None)

    def _links(self) -> list[Any]:
        return list(self._kernel.get_links())

    def _addresses(self, index: int) -> list[Any]:
        return [a for a in self._kernel.get_addr() if a["index"] == index]

    def find(self, interface: str) -> Any:
        """The link with the name, altname or MAC address *interface*."""
        for link in self._links():
            if interface in _names(link) or interface.lower() == link.get_attr("IFLA_ADDRESS"):
                return link
        return None

    def missing_link(self, interface: str) -> str:
        """A message if there is no link called *interface*, else empty."""
        return "" if self.find(interface) is not None else f"there is no interface {interface}"

    def set_up(self, interface: str, addresses: list[str], gateways: list[str]) -> bool:
        """Bring the link up with these addresses (``10.0.0.2/24``) and default routes.

        Existing addresses and routes stay. Returns whether there was a change. Raises ``OSError``.
        """
        import socket

        link = self.find(interface)
        index = link["index"]
        changed = not link["flags"] & _IFF_UP
        if changed:
            self._change(self._kernel.link, "set", index=index, state="up")
        for address in addresses:
            plain, _, length = address.partition("/")
            changed |= self._change(
                self._kernel.addr, "add", index=index, address=plain, prefixlen=int(length)
            )
        for gateway in gateways:
            changed |= self._change(
                self._kernel.route,
                "add",
                dst="default",
                gateway=gateway,
                oif=index,
                family=socket.AF_INET6 if is_v6(gateway) else socket.AF_INET,
            )
        return changed

    def _change(self, call: Callable[..., object], *words: object, **values: object) -> bool:
        """Request a change from the kernel; false if there is nothing to change."""
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            call(*words, **values)
        except NetlinkError as error:
            if error.code == _EEXIST:
                return False
            what = " ".join(str(values[k]) for k in ("address", "gateway") if k in values)
            raise OSError(error.code, os.strerror(error.code), what or None) from None
        return True

    def describe(self) -> str:
        """The state of the interfaces and the default routes, for messages."""
        links = [self._describe(link) for link in self._links()
                 if not link["flags"] & _IFF_LOOPBACK]  # fmt: skip
        routes = [
            f"default route by {route.get_attr('RTA_GATEWAY') or 'no gateway'}"
            for route in self._kernel.get_default_routes()
        ]
        return "; ".join([*(links or ["no network interface"]), *(routes or ["no default route"])])

    def _describe(self, link: Any) -> str:
        up = "up" if link["flags"] & _IFF_UP else "down"
        carrier = "carrier" if link.get_attr("IFLA_CARRIER") else "no carrier"
        found = [
            f"{a.get_attr('IFA_ADDRESS')}/{a['prefixlen']}{_confirmed(a)}"
            for a in self._addresses(link["index"])
        ]
        return f"{link.get_attr('IFLA_IFNAME')} {up}, {carrier}, {' '.join(found) or 'no address'}"


def _milliseconds(deadline: float) -> float | None:
    """The time until *deadline* for poll(2); ``None`` for no limit."""
    left = max(0.0, deadline - time.monotonic())
    return None if left == _ENDLESS else left * 1000


def _flags(address: Any) -> int:
    return int(address.get_attr("IFA_FLAGS") or address["flags"])


def _confirmed(address: Any) -> str:
    flags = _flags(address)
    if flags & _IFA_F_DADFAILED:
        return " (used by another machine)"
    return " (not confirmed yet)" if flags & _IFA_F_TENTATIVE else ""


def _names(link: Any) -> list[str]:
    """The name of the link and its altnames (ip-link(8))."""
    names = [link.get_attr("IFLA_IFNAME")]
    properties = link.get_attr("IFLA_PROP_LIST")
    if properties is not None:
        names += properties.get_attrs("IFLA_ALT_IFNAME")
    return names


def _socket_address(address: str, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """The socket address in numbers: an interface name in it would need the resolver."""
    import socket

    plain, _, interface = address.partition("%")
    return (plain, port, 0, socket.if_nametoindex(interface)) if interface else (plain, port)


def connect(address: str, port: int, deadline: float) -> None:
    """Wait until the server, which may be booting as well, accepts a connection.

    There is no event for that: a failed attempt is repeated after a second. Raises ``TimeoutError``
    with the result of the last attempt.
    """
    import socket

    last = "the server did not answer"
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(last)
        # Not create_connection(), which uses the resolver, missing here, even for numbers.
        attempt = socket.socket(socket.AF_INET6 if is_v6(address) else socket.AF_INET)
        attempt.settimeout(None if left == _ENDLESS else left)
        try:
            attempt.connect(_socket_address(address, port))
        except TimeoutError:
            raise TimeoutError("the server did not answer") from None
        except OSError as error:
            last = (error.strerror or str(error)).lower()
            time.sleep(min(1.0, max(0.0, deadline - time.monotonic())))
        else:
            return
        finally:
            attempt.close()


def within(work: Callable[[], None], deadline: float) -> None:
    """Run *work*, which may hang in the kernel, in a child that is killed at the deadline.

    The mount of a network file system reacts to no other signal. Raises ``TimeoutError``, and
    ``OSError`` if *work* did.
    """
    import select

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except OSError as error:
            os.write(writer, f"{error.errno or 0} {error.strerror}".encode()[:4096])
        finally:
            os._exit(code)
    os.close(writer)
    try:
        ended = os.pidfd_open(child)
        try:
            poll = select.poll()
            poll.register(ended, select.POLLIN)
            in_time = bool(poll.poll(_milliseconds(deadline)))
            if not in_time:
                os.kill(child, 9)
                poll.poll(5000)
        finally:
            os.close(ended)
        pid, status = os.waitpid(child, os.WNOHANG)
        if not in_time:
            raise TimeoutError("the server did not answer")
        if pid and status:
            number, _, reason = os.read(reader, 4096).decode(errors="replace").partition(" ")
            raise OSError(int(number or 0), reason or "the mount ended without a message")
    finally:
        os.close(reader)


def exercise() -> None:
    """Load all modules that pyroute2 loads at its first use; changes nothing."""
    with Network() as net:
        net.missing_route("127.0.0.1")
        net.find("lo")
        net.describe()
