"""Volumes on the network: waiting until their server can be reached, and mounting them.

The network itself is the initramfs's (dracut's or mkinitcpio's own modules set it up from the
kernel command line), or a static one from the plan. Either way the stage waits for the
carrier, the address and the route itself, so that a server that is absent is a missing store
after the volume's time-out and never a boot that hangs.
"""

from __future__ import annotations

import errno
import time

from ephemeroot.errors import StoreMissing
from ephemeroot.hooks.operation import Operation, field
from ephemeroot.linux import mounts, values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

    from ephemeroot.hooks.stage import Stage

TYPES = frozenset(("nfs", "nfs4", "cifs", "smb3"))
"""The types of volumes that need the network before they can be mounted."""

_PORTS = {"nfs": 2049, "nfs4": 2049, "cifs": 445, "smb3": 445}


class Network(Operation):
    """Bring up ``interface`` with ``addresses`` (``10.0.0.2/24``) and default ``gateways``."""

    KIND = "network"
    interface: str = field("text", "the interface, by name or MAC address")
    addresses: list[str] = field("strings", "its addresses, with the length of their networks")
    gateways: list[str] = field("strings", "the default routers", default=[])
    timeout: int = field("seconds", "how long to wait for it; 0: no end", default=90)

    def describe(self) -> str:
        gateway = f", gateway {', '.join(self.gateways)}" if self.gateways else ""
        return f"set up {self.interface} with {', '.join(self.addresses)}{gateway}"

    def execute(self, stage: Stage) -> str:
        """Raises ``StoreMissing`` if the interface does not appear or cannot be set up."""
        network = _library()
        deadline = _deadline(self.timeout)
        try:
            with network.Network() as net:
                net.wait(lambda: net.missing_link(self.interface), deadline)
                changed = net.set_up(self.interface, self.addresses, self.gateways)
        except TimeoutError as error:
            raise StoreMissing(
                f"the network cannot be set up within {self.timeout} s: {error}",
                "compare [network] with the interfaces of this machine ('ip link'); the image may "
                "lack the driver",
            ) from None
        except OSError as error:
            what = f" ({error.filename})" if error.filename else ""
            raise StoreMissing(
                f"the network cannot be set up on {self.interface}{what}: {error.strerror}"
            ) from error
        return "set up" if changed else "already set up"


def _deadline(timeout: int) -> float:
    """On the monotonic clock; a *timeout* of 0 is without end."""
    return time.monotonic() + timeout if timeout else float("inf")


def _library() -> ModuleType:
    """The module that needs pyroute2; an image whose own plan has no network has neither.

    It may have to follow a newer plan that does. Raises ``StoreMissing``.
    """
    try:
        from ephemeroot.linux import network
    except ImportError:
        raise StoreMissing(
            "this image lacks the parts that a network volume needs",
            "run 'ephemeroot apply' to rebuild all images",
        ) from None
    return network


def address(options: list[str], kind: str) -> str | None:
    """The server's numeric address, which the plan's options of the volume carry."""
    key = "ip=" if kind in ("cifs", "smb3") else "addr="
    found = [o[len(key) :] for o in options if o.startswith(key)]
    return found[-1] if found else None


def port(options: list[str], kind: str) -> int | None:
    """The TCP port to try; ``None`` where there is none to try (UDP, RDMA)."""
    given = dict(o.partition("=")[::2] for o in options if "=" in o)
    if kind in ("nfs", "nfs4") and given.get("proto", "tcp") not in ("tcp", "tcp6"):
        return None
    if kind == "nfs" and given.get("vers", given.get("nfsvers", "")).startswith("3"):
        return None  # the port mapper knows which; the kernel asks it
    return values.number(given.get("port", "")) or _PORTS[kind]


def mount(kind: str, source: str, options: list[str], point: str, timeout: int) -> None:
    """Mount the network volume *source* at the directory *point*, in *timeout* seconds at most.

    Raises ``StoreMissing`` with the attempt and the state of the network.
    """
    network = _library()
    deadline = _deadline(timeout)
    server = address(options, kind)
    if server is None:
        raise StoreMissing(f"the plan has no address for {source}", "run 'ephemeroot apply'")
    number = port(options, kind)
    what = f"{server} port {number}" if number is not None else server
    failed = f"{source} ({kind}) cannot be reached within {timeout} s"
    hint = (
        "check that the server is up, and the network settings (ip= on the kernel command line, or "
        "[network])"
    )
    with network.Network() as net:
        try:
            net.wait(lambda: net.missing_route(server), deadline)
        except TimeoutError as error:
            raise StoreMissing(f"{failed}: {error}", hint) from None
        there = net.describe()
    try:
        if number is not None:
            network.connect(server, number, deadline)
        network.within(
            lambda: mounts.attach_at(mounts.create(kind, source, options), point), deadline
        )
    except TimeoutError as error:
        raise StoreMissing(f"{failed}: tried {what}: {error} ({there})", hint) from None
    except OSError as error:
        raise StoreMissing(
            f"cannot mount {source} ({kind}) from {what}: {error.strerror}", _hint(error)
        ) from error


def _hint(error: OSError) -> str:
    if error.errno in (errno.EPROTONOSUPPORT, errno.EPROTO, errno.EOPNOTSUPP):
        return "name a version that the server supports: vers=4.1 or vers=4.0 in options"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "the server must export it to this machine, and to its root (no_root_squash)"
    if error.errno == errno.ENOENT:
        return "name a path that the server exports"
    if error.errno == errno.ENODEV:
        return "the image lacks the kernel module: run 'ephemeroot apply'"
    return ""
