"""The policies of `on-failure`: boots that cannot wipe, one under each policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from vm import initramfs
from vm.bench import Bench, Boot
from vm.lock import one_turn
from vm.machine import Machine
from vm.verdict import Emergency, Stopped

STRAY = "of the root that must stay\n"

RESCUE = "to boot without wiping, append ephemeroot.wipe=no to the kernel command line"

POLICIES = ("keep", "emergency", "reboot", "poweroff")


def require_obeyed(
    bench: Bench,
    boot: Callable[[], Boot],
    name: str,
    scratch: Path,
    policies: tuple[str, ...] = POLICIES,
    *,
    python: str = "",
) -> None:
    """Boot a machine whose base has no modules for the kernel, with each of `policies` in
    `ephemeroot.on-failure=`; or, if `python` is the interpreter's name in the image, a machine
    whose interpreter does not start.

    Raises AssertionError unless each boot follows the policy, prints its reason on the console, and
    wipes nothing.
    """
    failures = []
    with one_turn(bench.cache):
        for policy in policies:
            case = f"{name}-{policy}"
            try:
                _require(bench, boot(), case, scratch / f"{policy}.initrd", policy, python)
            except AssertionError as error:
                failures.append(f"{case}: {error}")
                bench.close()
    if failures:
        raise AssertionError("\n\n".join(failures))


def _require(bench: Bench, boot: Boot, name: str, initrd: Path, policy: str, python: str) -> None:
    release = boot.system.release
    with boot.disks[0].mounted() as top:
        (top / "root/etc/stray").write_text(STRAY)
        modules = top / "root-base/usr/lib/modules"
        if not python:
            (modules / release).rename(modules / "6.1.0-older")
    reason = f"has no modules for the running kernel {release}"
    if python:
        reason = "cannot be started"
        boot = replace(
            boot, initrd=initramfs.overlay(boot.initrd, {python: "no interpreter\n"}, initrd)
        )
    words = (*boot.arguments, f"ephemeroot.on-failure={policy}")
    outcome = bench.boot(replace(boot, arguments=words), name)
    if isinstance(outcome, Machine):
        assert policy == "keep", "it came up"
        assert outcome.settle() == "running", outcome.failed_units()
        assert outcome.read("/etc/stray") == STRAY.encode()
        bound = outcome.run("findmnt -no FSROOT /var/log", check=False).out.strip()
        assert bound == ("" if python else "/persistent/var/log")
        assert "the root is kept" in outcome.journal()
        assert outcome.poweroff().complaints == ()
    elif isinstance(outcome, Emergency):
        assert policy == "emergency", str(outcome)
        # Not by its `stage`: an mkinitcpio with systemd has the installed system's
        # emergency.service, which reports "system".
        mounted = _mounted(outcome.mounts)
        assert mounted.get("/") == "rootfs", outcome.mounts
        assert not {"/sysroot", "/new_root"} & mounted.keys(), outcome.mounts
    else:
        assert isinstance(outcome, Stopped)
        assert outcome.how == policy, str(outcome)
    console = outcome.console.read_text(errors="replace")
    assert reason in console, str(outcome)
    if policy == "emergency":
        assert RESCUE in console, str(outcome)
    with boot.disks[0].mounted() as top:
        assert (top / "root/etc/stray").read_text() == STRAY
        assert not list((top / "old_roots").glob("*"))
        assert not [path for path in top.iterdir() if path.name.startswith(".")]


def _mounted(mountinfo: str) -> dict[str, str]:
    """The type of the topmost filesystem on each mount point."""
    lines = [line.split() for line in mountinfo.splitlines()]
    return {words[4]: words[words.index("-") + 1] for words in lines}
