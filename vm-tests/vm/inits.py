"""dracut's two kinds of initramfs, on each Debian: the options for building its images."""

from __future__ import annotations

# With all modules that depend on systemd.
_OMITTED = (
    "systemd systemd-initrd dracut-systemd systemd-emergency systemd-udevd systemd-journald "
    "systemd-ask-password systemd-sysusers systemd-tmpfiles systemd-modules-load systemd-sysctl "
    "systemd-cryptsetup systemd-battery-check dbus dbus-broker dbus-daemon"
)
WITHOUT_SYSTEMD = ("--omit", _OMITTED)
# For any machine, not only for this one.
GENERIC = ("--no-hostonly",)
