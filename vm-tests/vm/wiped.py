"""Requirements for every boot that has wiped, whatever its initramfs."""

from __future__ import annotations

import json

from vm.machine import Machine


def require_wiped_once(machine: Machine) -> None:
    """Wait for the end of the boot. Raises AssertionError unless it wiped once and persisted
    everything without a problem.
    """
    state = machine.settle()
    journal = machine.journal()
    said = json.loads(machine.read("/run/ephemeroot/boot.json"))
    problems = [said[stage]["problems"] for stage in ("wipe", "persist")]
    log = machine.run("findmnt -no FSROOT /var/log", check=False).out.strip()
    found = (state, journal.count("wipe: wiped"), journal.count("persist: "), problems, log)
    wanted: tuple[object, ...] = ("running", 1, 1, [[], []], "/persistent/var/log")
    if found != wanted:
        raise AssertionError(f"{found}\nis not {wanted}\n{machine.failed_units()}\n{journal}")
