"""QEMU itself: its command line, its monitor, and the reason of its end."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vm.port import Closed, Lines, Message, Silence
from vm.tools import Tools

PORT = "vm"  # the guest's agent and reporter look for this name

# A panic must end the machine at once, and printing on a serial console costs seconds. TERM=dumb:
# systemd asks other terminals for their size, and waits for an answer.
QUIET = (
    *("panic=-1", "oops=panic", "audit=0", "quiet", "loglevel=3", "systemd.show_status=0"),
    *("TERM=dumb", "8250.nr_uarts=1", "mitigations=off"),
)
# Mitigations and self-tests of the kernel at each start; without KVM they take a tenth of a boot.
LEAN = (
    *("cryptomgr.notests", "init_on_alloc=0", "hardened_usercopy=off"),
    *("randomize_kstack_offset=off", "kfence.sample_interval=0"),
)
# A failed initramfs reports and powers off instead of prompting for a root password.
UNATTENDED = ("rd.shell=0", "rd.emergency=poweroff", "rd.retry=20")

WITHOUT_SESSIONS = tuple(
    f"systemd.mask={unit}"
    for unit in (
        "dbus.socket", "dbus.service", "systemd-logind.service", "systemd-user-sessions.service",
        "serial-getty@ttyS0.service",
    )
)  # fmt: skip

_LEFT_OUT = "sata=off,smbus=off,usb=off,i8042=off,hpet=off,vmport=off"

_KVM_CREATE_VM = 0xAE01  # linux/kvm.h


@dataclass(frozen=True)
class Hardware:
    """The hardware of the machine. `memory` in MiB.

    A machine with several `cpus` runs alone on this host: for tests that need real concurrency.
    """

    memory: int = 1024
    cpus: int = 1
    extra: tuple[str, ...] = ()

    @property
    def alone(self) -> bool:
        """Whether no other machine may run meanwhile."""
        return self.cpus > 1


def accelerator() -> str:
    """`$EPHEMEROOT_VM_ACCEL`: tcg, kvm, or auto, which is kvm if that can be opened.

    The default is tcg, which works everywhere; /dev/kvm can exist and open, and still not work.
    """
    wanted = os.environ.get("EPHEMEROOT_VM_ACCEL", "tcg")
    if wanted not in ("tcg", "kvm", "auto"):
        raise ValueError(f"EPHEMEROOT_VM_ACCEL={wanted}: not one of tcg, kvm, auto")
    if wanted == "auto":
        return "kvm" if _kvm_opens() else "tcg"
    return wanted


def _kvm_opens() -> bool:
    try:
        device = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.close(fcntl.ioctl(device, _KVM_CREATE_VM, 0))
    except OSError:
        return False
    finally:
        os.close(device)
    return True


def kernel_words(kernel: Path, initrd: Path, append: Sequence[str]) -> list[str]:
    """Arguments that start that kernel directly, without firmware and boot loader."""
    return ["-kernel", str(kernel), "-initrd", str(initrd), "-append", " ".join(append)]


def command_line(
    start: Sequence[str], disks: Sequence[Path], hardware: Hardware, console: Sequence[str]
) -> list[str]:
    """QEMU's command line without the connections; disks appear as /dev/vda, /dev/vdb, …

    `start` are the arguments that start the machine: `kernel_words`, or firmware.
    """
    # Without KVM, each feature of the processor and each device costs the guest's kernel time: the
    # plainest processor boots a fifth faster than `max`, and each omitted controller saves a
    # driver.
    kvm = accelerator() == "kvm"
    words = [
        *("qemu-system-x86_64", "-nodefaults", "-no-reboot", "-display", "none"),
        *("-machine", f"q35,{_LEFT_OUT}"),
        *("-accel", "kvm" if kvm else "tcg,thread=multi", "-cpu", "host" if kvm else "qemu64,-svm"),
        *("-smp", str(hardware.cpus), "-m", str(hardware.memory)),
        *start,
        *("-device", "virtio-rng-pci", *console),
    ]
    for number, disk in enumerate(disks):
        name = str(disk).replace(",", ",,")
        # cache=unsafe: data written by the guest is in this host's page cache, which outlives a
        # killed QEMU; only a crash of this host could lose it.
        drive = f"file={name},format=raw,if=none,id=disk{number},cache=unsafe,discard=unmap"
        words += ["-drive", drive]
        words += ["-device", f"virtio-blk-pci,drive=disk{number},serial=disk{number}"]
    return [*words, *hardware.extra]


_SLOWEST = 10.0  # times as long as on a host of its own


def _prefer(pid: int) -> None:
    """Give the machine priority over builds, if permitted, because it has timeouts.

    The kernel divides the processors evenly between sessions, however nice their processes are
    (sched(7), autogroup).
    """
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, -10)
        Path(f"/proc/{pid}/autogroup").write_text("-10")


class Qemu:
    """A running QEMU: `port` is the connection to the guest, `monitor` the one to QEMU.

    `descriptors` are further ones that `words` refer to.
    """

    def __init__(self, tools: Tools, words: Sequence[str], descriptors: Sequence[int] = ()) -> None:
        port, port_end = socket.socketpair()
        monitor, monitor_end = socket.socketpair()
        wires = [
            *("-device", "virtio-serial-pci"),
            *("-chardev", f"socket,id=port,fd={port_end.fileno()}"),
            *("-device", f"virtserialport,chardev=port,name={PORT}"),
            *("-chardev", f"socket,id=monitor,fd={monitor_end.fileno()}"),
            *("-mon", "chardev=monitor,mode=control"),
        ]
        with port_end, monitor_end:
            self.process: subprocess.Popen[bytes] = tools.popen(
                [*words, *wires], (port_end.fileno(), monitor_end.fileno(), *descriptors)
            )
        self._begun = time.monotonic()
        _prefer(self.process.pid)
        self.port = Lines(port)
        self.monitor = Lines(monitor)
        self._events: list[Message] = []
        with suppress(Closed):
            self.monitor.send({"execute": "qmp_capabilities"})

    def kept_waiting(self) -> float:
        """Seconds since its start for which a processor of the machine could have run and did not,
        because the host had no processor for it (sched-stats in the kernel's documentation).
        """
        waited = [0]
        for thread in Path(f"/proc/{self.process.pid}/task").glob("*/schedstat"):
            with suppress(OSError, ValueError, IndexError):  # the thread ended, or nothing counts
                waited.append(int(thread.read_text().split()[1]))
        return max(waited) / 1e9

    def stretched(self, seconds: float) -> float:
        """How long *seconds* of the machine take on this host, by what it got of it so far."""
        elapsed = time.monotonic() - self._begun
        had = max(elapsed - self.kept_waiting(), elapsed / _SLOWEST)
        return seconds * elapsed / had if had > 0 else seconds

    def command(self, name: str, timeout: float = 30, **arguments: object) -> Message:
        """Run a QMP command; returns its answer. Raises Closed or Silence."""
        self.monitor.send({"execute": name, "arguments": arguments, "id": name})
        deadline = time.monotonic() + timeout
        while (message := self.monitor.receive(deadline)).get("id") != name:
            self._events.append(message)
        return message

    def wait(self, timeout: float) -> str | None:
        """Wait for its end; return QEMU's reason (guest-shutdown, guest-reset, …), if it gave one.

        Raises subprocess.TimeoutExpired.
        """
        self.process.wait(timeout)
        with suppress(Closed, Silence):
            while True:
                self._events.append(self.monitor.receive(time.monotonic() + 1))
        for event in self._events:
            if event.get("event") == "SHUTDOWN":
                return str(event["data"]["reason"])
        return None

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End it if it still runs, and close the connections."""
        if self.process.poll() is None:
            self.kill()
        self.port.close()
        self.monitor.close()
