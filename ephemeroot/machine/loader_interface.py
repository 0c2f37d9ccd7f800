"""EFI variables by which the boot loader informs the running system: the Boot Loader Interface
(systemd.io/BOOT_LOADER_INTERFACE).
"""

from __future__ import annotations

from ephemeroot.linux import paths

_VENDOR = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
_VARIABLES = "/sys/firmware/efi/efivars"


def _read(name: str) -> str:
    """The text of a variable, after four bytes of attributes; empty if it is unset."""
    try:
        content = paths.read(f"{_VARIABLES}/{name}-{_VENDOR}")
    except OSError:
        return ""
    return content[4:].decode("utf-16-le", "replace").rstrip("\0")


def selected_entry() -> str:
    """The name of the booted entry, as set by systemd-boot; empty without it."""
    return _read("LoaderEntrySelected")


def is_systemd_boot() -> bool:
    """Whether systemd-boot started this system, so that files of other boot loaders are unused."""
    return _read("LoaderInfo").startswith("systemd-boot")
