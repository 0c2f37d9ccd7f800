"""The possible ends of a boot: a small set of outcomes, each with the evidence."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vm.port import Message


class MachineLost(Exception):
    """The machine ended or stopped answering without giving a reason: the test has no result.

    It differs from a failed test: it is counted at the end of a run, where the count must be 0. No
    boot is repeated, because a race of the product looks exactly like this.
    """

    def __init__(self, reason: str, console: Path) -> None:
        self.reason = reason
        self.console = console
        journal = console.with_suffix(".journal")
        more = f", and of its journal: {journal}" if journal.exists() else ""
        super().__init__(f"{reason}\n{tail(console)}\n(the whole console: {console}{more})")


class BootFailed(AssertionError):
    """The boot ended otherwise than expected; the message has the machine's messages."""


@dataclass(frozen=True)
class Emergency:
    """The machine itself reported that its boot failed, then powered off.

    `stage` is initramfs or system, `report` the content of /run/ephemeroot/boot.json (None if it is
    missing), `journal` its last lines, `mounts` mountinfo, `failed` the names of failed units.
    """

    stage: str
    report: Any
    journal: str
    mounts: str
    failed: tuple[str, ...]
    console: Path

    @classmethod
    def from_message(cls, message: Message, console: Path) -> Emergency:
        """Read the guest's line (`guest/usr/lib/vm-harness/report`)."""
        texts = {
            name: base64.b64decode(message.get(name, "")).decode(errors="replace")
            for name in _TEXTS
        }
        failed = tuple(line.split()[0] for line in texts["failed"].splitlines() if line.strip())
        report = None
        if texts["boot"]:
            with suppress(ValueError):  # the report may be incomplete
                report = json.loads(texts["boot"])
        return cls(
            str(message.get("stage")), report, texts["journal"], texts["mounts"], failed, console
        )

    def __str__(self) -> str:
        journal = "\n".join(self.journal.splitlines()[-80:])
        failed = ", ".join(self.failed) or "none"
        return (
            f"emergency in the {self.stage}; failed units: {failed}; report: {self.report}\n"
            f"{journal}\n(the whole console: {self.console})"
        )


_TEXTS = ("boot", "journal", "mounts", "failed")


@dataclass(frozen=True)
class Stopped:
    """The machine ended by itself, without a message of the agent or the reporter.

    `how` is poweroff or reboot.
    """

    how: str
    console: Path = field(repr=False)

    def __str__(self) -> str:
        return f"the machine ended by itself ({self.how}) without a word\n{tail(self.console)}"


def tail(console: Path, lines: int = 60) -> str:
    """The last lines on the console."""
    if not console.exists():
        return "(no console log)"
    return "\n".join(console.read_text(errors="replace").splitlines()[-lines:])


def ending(reason: str | None, console: Path) -> str:
    """poweroff, reboot, or why the machine is lost.

    QEMU reports `guest-reset` for a restart, a panic and a triple fault alike; the kernel's last
    messages (printed at the highest level in spite of `quiet`) distinguish them. After a panic
    those may be a crash kernel's.
    """
    text = console.read_text(errors="replace") if console.exists() else ""
    *before, text = text.split("Kernel panic")
    if before and "reboot: " not in text:
        return "the guest's kernel panicked"
    if reason == "guest-shutdown":
        return "poweroff"
    # The second is a power cut that a test requested (`vm.powercut`).
    if reason == "guest-reset" and any(
        word in text for word in ("reboot: Restarting system", "sysrq: Resetting")
    ):
        return "reboot"
    if reason == "guest-reset":
        return "the guest reset without a word (triple fault?)"
    return f"QEMU ended ({reason or 'no reason given'})"
