"""`boot`: how the unit or hook handles a stage's exit status, or a stage that does not run.

The interpreter, systemctl and sleep are replaced, in a mount namespace with a private kernel
command line, console and kernel log: the real programs would reboot the test machine.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from ephemeroot.image import data

pytestmark = pytest.mark.requires_root


@dataclass
class Result:
    status: int
    console: str
    log: str
    called: list[str]


class Machine:
    """A folder with `boot` in it, and the programs that it calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs = folder / "bin"
        self.programs.mkdir()
        self.settings = {"python": str(folder / "python")}
        self.cmdline = "root=/dev/vda ro"
        boot = folder / "boot"
        boot.write_bytes(data.boot().read_bytes())
        boot.chmod(0o755)
        self._program("sleep", "exit 0")
        self.interpreter("exit 0")

    def _program(self, name: str, body: str) -> None:
        path = self.programs / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.folder}/called\n{body}\n')
        path.chmod(0o755)

    def interpreter(self, body: str) -> None:
        """Replace the stage with a shell script."""
        path = self.folder / "python"
        path.write_text(f'#!/bin/sh\necho "python $*" >> {self.folder}/called\n{body}\n')
        path.chmod(0o755)

    def systemctl(self, failed: str = "") -> None:
        self._program("systemctl", f'[ "$2 $3" = "is-failed {failed}" ]')

    def boot(self, *words: str) -> Result:
        for name in ("console", "log"):
            (self.folder / name).write_text("")
        (self.folder / "cmdline").write_text(self.cmdline + "\n")
        (self.folder / "called").write_text("")
        (self.folder / "rate").write_text("ratelimit\n")
        lines = [f"{name}={shlex.quote(value)}\n" for name, value in self.settings.items()]
        (self.folder / "settings").write_text("".join(lines))
        script = (
            "set -e; mount -t tmpfs tmpfs /dev; mknod -m 666 /dev/null c 1 3\n"
            f"ln -s {self.folder}/console /dev/console; ln -s {self.folder}/log /dev/kmsg\n"
            f"mount --bind {self.folder}/cmdline /proc/cmdline\n"
            f"mount --bind {self.folder}/rate /proc/sys/kernel/printk_devkmsg\n"
            f'PATH={self.programs} exec {self.folder}/boot "$@"'
        )
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *words],
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"]},
        )
        assert not done.stderr.startswith(("mount:", "unshare:", "mknod:")), done.stderr
        return Result(
            done.returncode,
            (self.folder / "console").read_text().replace("\r", ""),
            (self.folder / "log").read_text(),
            (self.folder / "called").read_text().splitlines(),
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_calls_the_stage(machine: Machine) -> None:
    result = machine.boot("wipe")
    folder = machine.folder
    assert result.called == [
        f"python -I -S -B {folder}/boot.pyc wipe --plan {folder}/plan.json --target /sysroot --boot"
    ]
    assert (result.status, result.console, result.log) == (0, "", "")
    assert "--target /new_root" in machine.boot("persist", "/new_root").called[0]


@pytest.mark.parametrize(("status", "expected"), [(0, 0), (10, 0), (11, 0), (73, 1)])
@pytest.mark.parametrize("stage", ["wipe", "persist"])
def test_adds_nothing_after_a_stage_that_decided(
    machine: Machine, stage: str, status: int, expected: int
) -> None:
    """The stage has reported its result and followed the policy."""
    machine.settings.update(wipe="poweroff", store="poweroff")
    machine.interpreter(f"exit {status}")
    result = machine.boot(stage)
    assert (result.status, result.console) == (expected, "")


@pytest.mark.parametrize(("status", "verb"), [(71, "reboot"), (72, "poweroff")])
def test_waits_for_a_stage_that_ends_the_machine(machine: Machine, status: int, verb: str) -> None:
    machine.systemctl()
    machine.interpreter(f"exit {status}")
    result = machine.boot("persist")
    assert f"systemctl --force {verb}" in result.called
    assert verb in result.console
    assert result.status == 1  # the boot must not continue until then


def test_the_kernel_log_is_not_throttled_during_a_stage(machine: Machine) -> None:
    machine.interpreter(f"read -r rate < {machine.folder}/rate; echo $rate > {machine.folder}/seen")
    machine.boot("wipe")
    assert (machine.folder / "seen").read_text() == "on\n"
    assert (machine.folder / "rate").read_text() == "ratelimit\n"


CRASHES = ["exit 2", "exit 3", "exit 20", "exit 127", "kill -SEGV $$", "kill -KILL $$"]


# A stage that decides nothing: a shell script in place of the interpreter, the settings of the
# image, and the message on the console.
UNDECIDED = {
    **{crash: (crash, {}, "{stage} failed") for crash in CRASHES},
    "no interpreter": (None, {}, "python cannot be started"),
    "no settings": (None, {"python": "/nonexistent"}, "/nonexistent cannot be started"),
}


@pytest.mark.parametrize("how", UNDECIDED)
@pytest.mark.parametrize("stage", ["wipe", "persist"])
def test_fails_closed_if_the_stage_decided_nothing(machine: Machine, stage: str, how: str) -> None:
    """If nothing was wiped, the root can boot; without its bound paths it must not."""
    script, settings, said = UNDECIDED[how]
    if script is None:
        (machine.folder / "python").unlink()
    else:
        machine.interpreter(script)
    machine.settings = settings or machine.settings
    result = machine.boot(stage)
    assert result.status == (0 if stage == "wipe" else 1)
    assert said.format(stage=stage) in result.console
    assert {
        "wipe": "nothing was wiped",
        "persist": "append ephemeroot=no to the kernel command line",
    }[stage] in result.console
    logged = [line.removeprefix("<2>") for line in result.log.splitlines()]
    assert result.console.splitlines() == logged


@pytest.mark.parametrize(
    ("stage", "baked", "override", "status", "ends"),
    [
        ("wipe", "keep", "", 0, None),
        ("wipe", "emergency", "", 1, None),
        ("wipe", "reboot", "", 1, "reboot"),
        ("wipe", "poweroff", "", 1, "poweroff"),
        ("wipe", "poweroff", "ephemeroot.on-failure=keep", 0, None),
        ("wipe", "keep", "ephemeroot.on_failure=emergency", 1, None),
        ("wipe", "emergency", "ephemeroot.on-failure=nonsense", 1, None),
        ("wipe", "emergency", "ephemeroot.on-failure=continue", 0, None),
        ("wipe", "poweroff", "ephemeroot.wipe=no", 0, None),
        ("wipe", "poweroff", "ephemeroot.wipe=yes ephemeroot.wipe=FALSE", 0, None),
        ("wipe", "emergency", "ephemeroot.wipe=no ephemeroot.wipe=1", 1, None),
        ("persist", "emergency", "ephemeroot.wipe=no", 1, None),
        ("persist", "reboot", "", 1, "reboot"),
        ("persist", "poweroff", "ephemeroot.on-failure=emergency", 1, None),
        ("persist", "emergency", "ephemeroot.on-failure=reboot", 1, "reboot"),
        # As with an interpreter: the word of the command line applies to every kind of failure.
        ("persist", "emergency", "ephemeroot.on-failure=keep", 0, None),
        ("persist", "reboot", "ephemeroot.on-failure=continue", 0, None),
        ("persist", "poweroff", "ephemeroot.persist=off", 0, None),
    ],
)
def test_follows_the_policies(
    machine: Machine, stage: str, baked: str, override: str, status: int, ends: str | None
) -> None:
    machine.systemctl()
    machine.interpreter("exit 139")
    machine.settings["wipe" if stage == "wipe" else "store"] = baked
    machine.cmdline += f" quiet {override} ro"
    result = machine.boot(stage)
    assert result.status == status
    ended = [word for word in result.called if "--force" in word]
    assert ended == ([f"systemctl --force {ends}"] if ends else [])


@pytest.mark.parametrize("policy", ["keep", "continue"])
def test_boots_the_installed_root_below_layers_only_on_request(
    machine: Machine, policy: str
) -> None:
    machine.interpreter("exit 139")
    machine.settings.update(wipe=policy, layered="yes")
    result = machine.boot("wipe")
    assert result.status == 1
    assert "the installed root is not booted without a layer above it" in result.console
    machine.cmdline += " ephemeroot.wipe=no"
    assert machine.boot("wipe").status == 0


@pytest.mark.parametrize("stage", ["wipe", "persist"])
@pytest.mark.parametrize("word", ["no", "NO", "0", "off", "False", "n"])
def test_ephemeroot_no_does_nothing_at_all(machine: Machine, stage: str, word: str) -> None:
    machine.cmdline += f" ephemeroot={word}"
    result = machine.boot(stage)
    assert (result.status, result.called, result.console) == (0, [], "")


@pytest.mark.parametrize("stage", ["wipe", "persist"])
def test_does_nothing_in_a_crash_kernel(machine: Machine, stage: str) -> None:
    """Not even a policy that would end the machine applies: the crash kernel has a dump
    to write.
    """
    machine.settings.update(wipe="poweroff", store="poweroff")
    machine.cmdline += " elfcorehdr=0x5ffff000 nr_cpus=1"
    machine.interpreter("exit 127")
    result = machine.boot(stage)
    assert (result.status, result.called) == (0, [])
    assert "this is a crash kernel: it wipes nothing and mounts no declared path" in result.console
    assert "this is a crash kernel" in result.log


def test_ignores_words_that_only_resemble_ours(machine: Machine) -> None:
    machine.cmdline += " notephemeroot=no ephemeroot.other=no *"
    assert len(machine.boot("wipe").called) == 1


CHECK = r"systemd-fsck@dev-disk-by\x2dlabel-my\x5cx20data.service"


def test_does_not_mount_a_volume_whose_check_failed(machine: Machine) -> None:
    machine.settings["checks"] = f"systemd-fsck@other.service {CHECK}"
    machine.systemctl(failed=CHECK.replace("\\", "\\\\"))
    result = machine.boot("wipe")
    assert result.status == 1
    assert CHECK in result.console
    assert not any(line.startswith("python") for line in result.called)


def test_mounts_a_volume_whose_check_succeeded(machine: Machine) -> None:
    machine.settings["checks"] = CHECK
    machine.systemctl(failed="something-else.service")
    result = machine.boot("wipe")
    assert result.status == 0
    assert any(line.startswith("python") for line in result.called)


def test_an_inert_image_says_why(machine: Machine) -> None:
    (machine.folder / "inert").write_text("THIS INITRAMFS IS INERT\nThe reason: 50% of \\n it\n")
    result = machine.boot("inert")
    assert result.status == 0
    assert result.console == (
        "ephemeroot: THIS INITRAMFS IS INERT\nephemeroot: The reason: 50% of \\n it\n"
    )
    assert result.called == []


def test_wrong_usage_of_boot(machine: Machine) -> None:
    assert machine.boot("wipe-everything").status == 2
    assert machine.boot().status == 2
