"""Booting: from a system, an initramfs and disks to an outcome."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from vm import evidence
from vm.cache import Cache
from vm.console import Console, Typed
from vm.disk import Disk
from vm.lock import one_machine
from vm.machine import Machine
from vm.port import Closed, Message, Silence
from vm.qemu import (
    LEAN,
    QUIET,
    UNATTENDED,
    WITHOUT_SESSIONS,
    Hardware,
    Qemu,
    command_line,
    kernel_words,
)
from vm.system import System
from vm.times import BOOTING, STAGES, WAITING, times
from vm.tools import Tools
from vm.verdict import BootFailed, Emergency, MachineLost, Stopped, ending

# Seconds without an answer after which the agent is asked again.
_AGAIN = 2.0

ROOT = ("root=/dev/vda", "rootflags=subvol=root", "ro")

Outcome = Machine | Emergency | Stopped


@dataclass(frozen=True)
class Boot:
    """One way to boot.

    `arguments` follow the harness's own on the kernel command line (for most, the last one takes
    effect), `timeout` is the number of seconds to the first answer, without those for which the
    host had no processor for the machine, `typed` is input for the console during that time.
    Without `sessions` no user can log in, and there is no D-Bus: they cost seconds of each boot.
    """

    system: System
    initrd: Path
    disks: tuple[Disk, ...]
    root: tuple[str, ...] = ROOT
    arguments: tuple[str, ...] = ()
    hardware: Hardware = field(default_factory=Hardware)
    timeout: float = 180.0
    typed: tuple[Typed, ...] = ()
    sessions: bool = False

    def append(self) -> list[str]:
        """The kernel command line."""
        masked = () if self.sessions else WITHOUT_SESSIONS
        return ["console=ttyS0", *QUIET, *LEAN, *UNATTENDED, *masked, *self.root, *self.arguments]

    def start(self, tools: Tools) -> list[str]:
        """QEMU's arguments for it."""
        return kernel_words(self.system.kernel, self.initrd, self.append())


class Start(Protocol):
    """A way to start a machine: `Boot`, or `vm.firmware.FirmwareBoot`."""

    @property
    def disks(self) -> tuple[Disk, ...]:
        """As /dev/vda, /dev/vdb, …"""

    @property
    def hardware(self) -> Hardware:
        """The hardware of the machine."""

    @property
    def timeout(self) -> float:
        """Seconds to the first answer."""

    @property
    def typed(self) -> tuple[Typed, ...]:
        """Input for the console during the boot."""

    def start(self, tools: Tools) -> list[str]:
        """QEMU's arguments that start it."""


class Bench:
    """Runs machines: has the tools, the cache and the folder for console logs.

    `boots` is the number of started machines, `seconds` the time for which they ran.
    """

    def __init__(self, cache: Cache, tools: Tools, logs: Path) -> None:
        self.cache = cache
        self.tools = tools
        self.logs = logs
        self.boots = 0
        self.seconds = 0.0
        self._machines: list[Machine] = []
        self._seen: set[str] = set()
        logs.mkdir(parents=True, exist_ok=True)

    def boot(self, boot: Start, name: str) -> Outcome:
        """Boot to a Machine that runs, an Emergency, or a machine that Stopped by itself.

        `name` is the name of the console log. Raises MachineLost.
        """
        console = self._console(name)
        typist = Console(boot.typed) if boot.typed else None
        path = str(console).replace(",", ",,")
        unattended = ["-chardev", f"file,id=console,path={path}", "-serial", "chardev:console"]
        serial = typist.words(console) if typist else unattended
        disks = [d.image for d in boot.disks]
        words = command_line(boot.start(self.tools), disks, boot.hardware, serial)
        with ExitStack() as stack:
            with times.spent(WAITING):
                stack.enter_context(one_machine(self.cache, alone=boot.hardware.alone))
            begun = time.monotonic()
            stack.callback(self._count, begun)
            with times.spent(BOOTING):
                qemu = Qemu(self.tools, words, (typist.end.fileno(),) if typist else ())
                if typist:
                    typist.close_end()
                stack.callback(qemu.close)
                outcome = self._first_word(qemu, console, boot.timeout)
            if isinstance(outcome, Emergency | Stopped):
                return outcome
            # the machine continues to run, and so its lock and its connections stay
            lasting = stack.pop_all()
            if outcome["boot_id"] not in self._seen:  # one that resumes has run no stage
                self._seen.add(outcome["boot_id"])
                times.move(BOOTING, STAGES, outcome["stages"])
            machine = Machine(qemu, console, outcome, time.monotonic() - begun, lasting.close)
            self._machines.append(machine)
            return machine

    def up(self, boot: Start, name: str) -> Machine:
        """As `boot`, if it succeeds. Raises BootFailed with the machine's messages otherwise."""
        outcome = self.boot(boot, name)
        if not isinstance(outcome, Machine):
            raise BootFailed(str(outcome))
        return outcome

    def emergency(self, boot: Start, name: str) -> Emergency:
        """As `boot`, if it ends in an emergency. Raises BootFailed otherwise."""
        outcome = self.boot(boot, name)
        if isinstance(outcome, Machine):
            outcome.close()
            raise BootFailed("the machine came up, but an emergency was wanted")
        if not isinstance(outcome, Emergency):
            raise BootFailed(str(outcome))
        return outcome

    def close(self) -> None:
        """Cut the power of machines that still run."""
        for machine in self._machines:
            machine.close()
        self._machines.clear()

    def _count(self, begun: float) -> None:
        self.boots += 1
        self.seconds += time.monotonic() - begun

    def _console(self, name: str) -> Path:
        taken = len(list(self.logs.glob(f"{name}.*.log")))
        return self.logs / f"{name}.{taken + 1}.log"

    def _first_word(
        self, qemu: Qemu, console: Path, timeout: float
    ) -> Message | Emergency | Stopped:
        try:
            # The request waits in the connection until the agent opens the port, after a boot or a
            # resume. UEFI reads input before that, because it uses the port as a console
            # (VirtioSerialDxe of EDK II). So the request is sent again until there is an answer.
            deadline = time.monotonic() + timeout
            while True:
                with suppress(Closed):  # a final message of the machine may be available
                    qemu.port.send({"id": 0, "op": "ping"})
                try:
                    message = qemu.port.receive(time.monotonic() + _AGAIN)
                except Silence:
                    if time.monotonic() < deadline + qemu.kept_waiting():
                        continue
                    raise
                if message.get("event") == "emergency":
                    return self._last_word(qemu, Emergency.from_message(message, console))
                if message.get("event") == "hello":
                    return message
        except Silence as silence:
            evidence.save(qemu, console)
            qemu.kill()
            raise MachineLost(f"silent for {timeout:.0f} s", console) from silence
        except Closed as closed:
            how = ending(qemu.wait(30), console)
            if how in ("poweroff", "reboot"):
                return Stopped(how, console)
            raise MachineLost(how, console) from closed

    def _last_word(self, qemu: Qemu, emergency: Emergency) -> Emergency:
        # It powers off by itself; its report has arrived, so nothing is lost if it does not.
        deadline = time.monotonic() + 15
        try:
            while True:
                qemu.port.receive(deadline)
        except (Silence, Closed):
            return emergency
