"""A machine whose agent has answered: run commands in it, and end it in one of several ways."""

from __future__ import annotations

import base64
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vm import evidence
from vm.command import Completed
from vm.port import Closed, Message, Silence
from vm.qemu import Qemu
from vm.times import COMMANDS, WAITING, times
from vm.verdict import BootFailed, Emergency, MachineLost, ending

# Seconds between the guest's own timeout and ours, because a machine may be slow but running.
_GRACE = 30.0
_UNCLEAN = (
    "Failed to unmount",
    "Failed to remount",
    "Unable to finalize",
    "Could not detach",
    "not unmounted",
)


class CommandInMachineFailed(AssertionError):
    """A command in the machine did not end with status 0; the message has its output."""


@dataclass(frozen=True)
class Shutdown:
    """An orderly end.

    `how` is poweroff or reboot, `console` the printed text, `complaints` the lines about
    filesystems or devices that could not be unmounted.
    """

    how: str
    console: str
    complaints: tuple[str, ...]


class Machine:
    """A running machine.

    Every method raises MachineLost if it dies or stops answering, and BootFailed if it reports an
    emergency after all.

    `hello` is the agent's first answer: boot_id, uptime in seconds. `boot_time` is the number of
    seconds from the start of QEMU to that answer.
    """

    def __init__(
        self,
        qemu: Qemu,
        console: Path,
        hello: Message,
        boot_time: float,
        on_end: Callable[[], None],
    ) -> None:
        self._qemu = qemu
        self._on_end = on_end
        self._request = 0
        self.console = console
        self.hello = hello
        self.boot_time = boot_time

    def run(self, command: str, *, timeout: float = 60, check: bool = True) -> Completed:
        """Run a shell command as root. A command that takes longer than `timeout` seconds
        (`Qemu.stretched`) is killed: rc 124.

        Raises CommandInMachineFailed if it fails and `check` is not False. A command that continues
        in the background must close its stdout and stderr.
        """
        with times.spent(COMMANDS):
            done = self._run(command, timeout)
        if check and done.rc != 0:
            raise CommandInMachineFailed(f"exit status {done.rc}: {command}\n{done.out}{done.err}")
        return done

    def _run(self, command: str, timeout: float) -> Completed:
        limit = self._qemu.stretched(timeout)
        reply = self._ask(timeout + _GRACE, op="run", command=command, timeout=limit)
        return Completed(reply["rc"], reply["out"], reply["err"])

    def read(self, path: str) -> bytes:
        """The content of a file. Raises FileNotFoundError with the agent's message if it cannot be
        read.
        """
        return base64.b64decode(self._ask(60, op="read", path=path)["data"])

    def write(self, path: str, content: bytes | str, mode: int | None = None) -> None:
        """Write a file, and set its mode if given. Raises FileNotFoundError as `read` does."""
        data = content.encode() if isinstance(content, str) else content
        self._ask(60, op="write", path=path, data=base64.b64encode(data).decode(), mode=mode)

    def settle(self, timeout: float = 120) -> str:
        """Wait until the boot is finished; return systemd's state.

        That is `running`, or `degraded` if a unit failed. After `timeout` seconds it is a line that
        names the jobs for which systemd still waits.
        """
        with times.spent(WAITING):
            said = self._run("systemctl is-system-running --wait", timeout).out.strip()
        return said or f"unfinished: {self.run('systemctl list-jobs --no-pager').out.strip()}"

    def failed_units(self) -> list[str]:
        """The names of failed units."""
        listed = self.run("systemctl list-units --state=failed --plain --no-legend --no-pager").out
        return [line.split()[0] for line in listed.splitlines() if line.strip()]

    def journal(self, *arguments: str) -> str:
        """This boot's journal; `arguments` are shell words for journalctl."""
        command = f"journalctl --boot --output short-monotonic --no-pager {' '.join(arguments)}"
        return self.run(command).out

    def poweroff(self, timeout: float = 90) -> Shutdown:
        """Shut down in order and wait for the end."""
        return self.leave("systemctl --no-block poweroff", timeout)

    def hibernate(self, timeout: float = 120) -> Shutdown:
        """Suspend to swap and wait for the power to go off; booted again, the disks resume.

        This needs active swap, and `resume=` on the command line of both boots.
        """
        return self.leave("systemctl --no-block hibernate", timeout)

    def leave(self, command: str, timeout: float) -> Shutdown:
        """Run a command that ends the machine, and wait up to `timeout` seconds for that.

        An end that is neither power-off nor restart is a loss.
        """
        before = self.console.stat().st_size
        with times.spent(WAITING):
            self._ask(_GRACE, op="start", command=command)
            how = self._end(timeout)
        text = self.console.read_bytes()[before:].decode(errors="replace")
        complaints = tuple(
            line.strip() for line in text.splitlines() if any(word in line for word in _UNCLEAN)
        )
        return Shutdown(how, text, complaints)

    def remember(self) -> Path | None:
        """Save the journal in its memory, beside the console's log: `evidence.save`."""
        return evidence.save(self._qemu, self.console)

    def cut(self) -> None:
        """Cut the power: data that the guest has not written to its disk is lost."""
        self._qemu.kill()
        self._close()

    def close(self) -> None:
        """End the machine if it still runs; for the end of a test."""
        if self._qemu.process.poll() is None:
            self.cut()
        self._close()

    def _ask(self, patience: float, **request: Any) -> Message:
        self._request += 1
        try:
            self._qemu.port.send({"id": self._request, **request})
            patience = self._qemu.stretched(patience)
            reply = self._answer(time.monotonic() + patience)
        except Silence as silence:
            self.remember()
            self.cut()
            raise MachineLost(
                f"no answer within {patience:.0f} s to {request}", self.console
            ) from silence
        except Closed as closed:
            how = self._end(_GRACE)
            raise MachineLost(f"{how}, while it was asked {request}", self.console) from closed
        if "error" in reply:
            raise FileNotFoundError(f"{request['op']} {request.get('path', '')}: {reply['error']}")
        return reply

    def _answer(self, deadline: float) -> Message:
        while True:
            reply = self._qemu.port.receive(deadline)
            if reply.get("event") == "emergency":
                self.cut()
                raise BootFailed(str(Emergency.from_message(reply, self.console)))
            if reply.get("id") == self._request:
                return reply

    def _end(self, timeout: float) -> str:
        try:
            timeout = self._qemu.stretched(timeout)
            how = ending(self._qemu.wait(timeout), self.console)
        except subprocess.TimeoutExpired as expired:
            self.remember()
            self.cut()
            raise MachineLost(
                f"still running after {timeout:.0f} s, but should have ended", self.console
            ) from expired
        self._close()
        if how not in ("poweroff", "reboot"):
            raise MachineLost(how, self.console)
        return how

    def _close(self) -> None:
        self._qemu.close()
        self._on_end()
