"""Never wipe a machine that is about to resume from hibernation.

A resumed kernel continues writing to the filesystems it had mounted; what we changed under
it, or merely by mounting it, destroys them. The units' order is one guard, this is the
other: every place where a hibernation image may lie is looked at, and as long as one has
an image, cannot be read, or was named and is missing, nothing is touched.

The kernel takes the signature away before it loads an image (kernel/power/swap.c,
``swsusp_check``), so a signature that is still there was never tried.
"""

from __future__ import annotations

import os
import stat

from ephemeroot.errors import Refused
from ephemeroot.hooks.cmdline import CommandLine
from ephemeroot.linux import devices, documents, paths

# kernel/power/swap.c, kernel/power/user.c and libblkid's swsuspend prober
_SIGNATURES = (
    b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001", b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c",
)  # fmt: skip

# systemd, src/shared/hibernate-util.c: written before hibernating, since version 254
_LOCATION = "/sys/firmware/efi/efivars/HibernateLocation-8cf2644b-4b0b-428f-9387-6d876050dc67"

HINT = "to wipe, and lose any hibernated system, append noresume to the kernel command line"


def require_none_pending(cmdline: CommandLine, etc: str = "/etc") -> None:
    """Raise ``Refused`` unless it is certain that no resume is pending.

    ``noresume`` on the command line makes it certain. In an initramfs, what
    dracut wrote into its *etc* belongs to the command line.
    """
    if os.path.exists(f"{etc}/initrd-release"):
        cmdline = _with_baked_in(cmdline, etc)
    if cmdline.has("noresume"):
        return
    for spec, offset in _named(cmdline):
        _require_no_image(spec, offset)
    for name in devices.block_devices():
        if _has_signature_if_readable(name):
            raise Refused(
                f"/dev/{name} holds a hibernation image, which needs the present root", HINT
            )


def _with_baked_in(cmdline: CommandLine, etc: str) -> CommandLine:
    """The words of dracut's files, and those of *cmdline*, which count more.

    Its modules read them as if they were on the kernel command line (getcmdline in dracut-lib.sh):
    a host-only image of a machine with swap may say resume= here, and only here.
    """
    folder = f"{etc}/cmdline.d"
    names = paths.names(folder) if os.path.isdir(folder) else []
    files = [f"{folder}/{name}" for name in sorted(names) if name.endswith(".conf")]
    whole = CommandLine("")
    for path in (*files, f"{etc}/cmdline"):
        if os.path.isfile(path):
            whole.words += CommandLine(paths.read(path).decode("utf-8", "surrogateescape")).words
    whole.words += cmdline.words
    return whole


def _named(cmdline: CommandLine) -> list[tuple[str, int]]:
    """What names itself a place to resume from: device spec and offset in pages."""
    offset = _number(cmdline.get("resume-offset"))
    named = [(spec, offset) for spec in cmdline.values("resume") if spec]
    kernel = _sysfs("/sys/power/resume")
    if kernel not in ("", "0:0"):
        named.append((f"/dev/block/{kernel}", _number(_sysfs("/sys/power/resume_offset"))))
    return named + _firmware_location()


def _firmware_location() -> list[tuple[str, int]]:
    try:
        raw = paths.read(_LOCATION)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Refused(
            f"cannot read where this machine has hibernated ({_LOCATION}: {error.strerror})",
            HINT,
        ) from error
    try:
        # efivarfs puts four bytes of attributes first; the value is UTF-16 JSON.
        location = documents.parse(raw[4:].decode("utf-16-le").rstrip("\0"))
        return [(f"UUID={location['uuid']}", int(location["offset"]))]
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise Refused("cannot parse the firmware's HibernateLocation", HINT) from error


def _require_no_image(spec: str, offset: int) -> None:
    try:
        path = devices.link(spec)
        found = _has_signature(path, offset)
    except (ValueError, OverflowError):
        raise Refused(f"resume={spec} does not name a device that can be read", HINT) from None
    except OSError as error:
        raise Refused(
            f"cannot tell whether {spec} holds a hibernation image: {error.strerror}", HINT
        ) from error
    if found:
        raise Refused(f"{spec} holds a hibernation image, which needs the present root", HINT)


def _has_signature(path: str, offset: int = 0) -> bool:
    """Whether the swap header *offset* pages into *path* is a hibernation image's."""
    page = os.sysconf("SC_PAGE_SIZE")
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISBLK(mode) or stat.S_ISREG(mode)):
            raise OSError(15, os.strerror(15), path)  # ENOTBLK
        tail = os.pread(fd, 10, offset * page + page - 10)
    finally:
        os.close(fd)
    return any(tail.startswith(signature) for signature in _SIGNATURES)


def _has_signature_if_readable(name: str) -> bool:
    """The same for a device that is not configured: an empty card reader is not an error."""
    try:
        if devices.size(name) < 2 * os.sysconf("SC_PAGE_SIZE"):
            return False
        return _has_signature("/dev/" + name.replace("!", "/"))
    except (OSError, ValueError):
        return False


def _sysfs(path: str) -> str:
    try:
        return paths.read(path).decode().strip()
    except OSError:
        return ""


def _number(text: str | None) -> int:
    try:
        return int(text or "0")
    except ValueError:
        raise Refused(f"resume_offset={text} is not a number", HINT) from None
