"""An ordinary user of this machine, for the duration of a test.

The user has a private mount and PID namespace: /etc (with the user in passwd), /home, /mnt and a
/dev/fuse that every user may open are private, everything else is the machine's: its kernel, FUSE,
bindfs and setuid fusermount3. The user's processes and mounts end with the namespace. The
user has no capability, no group, no password.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import ephemeroot
import process_end
import programs

NEEDS = [
    pytest.mark.requires_root,
    *(
        pytest.mark.requires_program(name)
        for name in ("bindfs", "fusermount3", "nsenter", "setpriv", "unshare")
    ),
]
"""The marks of tests with this user."""

UID = 4242
NAME = "talyz"
HOME = f"/home/{NAME}"
STORE = f"/mnt/persistent/home/{NAME}"
CONFIGURATION = f"{HOME}/.config/ephemeroot/home.toml"
PROGRAM = "/mnt/bin/ephemeroot"

ENVIRONMENT = {
    "HOME": HOME, "USER": NAME, "LANG": "C.UTF-8", "PATH": "/mnt/bin:/usr/local/bin:/usr/bin:/bin",
}  # fmt: skip

# The first process ignores SIGCHLD, so that the kernel itself reaps orphans.
SET_UP = f"""
set -e
mount -t tmpfs -o mode=0755 none /mnt
mkdir -p /mnt/etc /mnt/lib /mnt/bin {STORE} /mnt/home/{NAME}
for name in ld.so.cache ld.so.conf ld.so.conf.d nsswitch.conf localtime fuse.conf; do
  [ ! -e /etc/$name ] || cp -a /etc/$name /mnt/etc/
done
ln -s /proc/self/mounts /mnt/etc/mtab
printf 'root:x:0:0::/root:/bin/sh\\n{NAME}:x:{UID}:{UID}::{HOME}:/bin/sh\\n' >/mnt/etc/passwd
printf 'root:x:0:\\n{NAME}:x:{UID}:\\n' >/mnt/etc/group
mknod -m 0666 /mnt/fuse c 10 229
chown -R {UID}:{UID} {STORE} /mnt/home/{NAME}
mount --bind /mnt/fuse /dev/fuse
mount --bind /mnt/home /home
mount --bind /mnt/etc /etc
trap '' CHLD
echo ready
exec sleep infinity
"""

PLAIN = """
[persistence."STORE"]
directories = ["Downloads", { directory = ".local/share/Steam", method = "symlink" }]
files = [".screenrc"]
"""
NOTHING = '[persistence."STORE"]\n'


class OrdinaryUser:
    """The user ``talyz`` with an empty home and an empty store.

    *package* is a copy of the program that every user can read; see `readable_package`.
    """

    def __init__(self, package: Path) -> None:
        self.package = package
        self._outside = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--propagation", "private",
             "--kill-child", "sh", "-c", SET_UP],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._outside.stdout is not None
        if self._outside.stdout.readline() != "ready\n":
            raise RuntimeError(f"no namespace for the user: {self._outside.communicate()[1]}")
        children = Path(f"/proc/{self._outside.pid}/task/{self._outside.pid}/children")
        self.first = int(children.read_text().split()[0])
        self._install()

    def close(self) -> None:
        """End all processes of the namespace, and with them its mounts."""
        os.kill(self.first, signal.SIGKILL)
        self._outside.communicate(timeout=120)

    def outside(self, path: str) -> Path:
        """The user's *path* as root sees it from outside the namespace.

        Root may not read the content of FUSE mounts.
        """
        return Path(f"/proc/{self.first}/root{path}")

    def _install(self) -> None:
        interpreter = os.path.realpath(sys.executable)
        if self.sh(f"'{interpreter}' -c ''", check=False).returncode != 0:
            pytest.skip(f"needs a Python that every user may run: {interpreter} is private")
        self.outside("/mnt/lib/ephemeroot").mkdir()
        self.as_root(f"mount --bind {self.package} /mnt/lib/ephemeroot")
        program = self.outside(PROGRAM)
        program.write_text(
            f"#!{interpreter} -IB\nimport sys\nsys.path.insert(0, '/mnt/lib')\n"
            "from ephemeroot.cli import main\nsys.exit(main())\n"
        )
        program.chmod(0o755)

    def command(self, words: Sequence[str], environment: dict[str, str]) -> list[str]:
        """The command line that runs *words* in the namespace as the user."""
        variables = {**ENVIRONMENT, **environment}
        return [
            "nsenter", f"--target={self.first}", "--mount", "--pid", f"--wdns={HOME}",
            "setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--inh-caps=-all",
            "env", "--ignore-environment", *(f"{k}={v}" for k, v in variables.items()), *words,
        ]  # fmt: skip

    def run(
        self, *words: str, check: bool = True, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as the user."""
        done = self._program("exec", *words, environment=environment or {})
        if check:
            assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done

    def sh(self, script: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a shell script as the user."""
        return self.run("sh", "-ec", script, check=check)

    def as_root(self, script: str) -> str:
        """Run a shell script as root in the namespace, as the administrator of the machine."""
        done = subprocess.run(
            ["nsenter", f"--target={self.first}", "--mount", "--pid", "sh", "-ec", script],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a program as the user, and wait for its first line of output."""
        process = subprocess.Popen(
            self.command(words, {}), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline()
        return process

    def home(
        self, *arguments: str, rc: int = 0, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """``ephemeroot home …``, which must exit with *rc* and without a traceback."""
        words = (PROGRAM, "home", *arguments)
        done = self._program("ephemeroot", *words, environment=environment or {})
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == rc, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def _program(
        self, kind: str, name: str, *words: str, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of that *kind*, see `programs`, as the user."""
        return programs.run(
            *words, program=kind, name=name, env={**ENVIRONMENT, **(environment or {})},
            steps=[["enter", self.first], ["user", UID, HOME]],
        )  # fmt: skip

    def status(self) -> dict[str, str]:
        """The condition of each entry in the output of ``status``, by its path below the home."""
        done = self._program("ephemeroot", PROGRAM, "home", "status", "--json")
        content: dict[str, Any] = json.loads(done.stdout)
        assert (content["format"], content["version"]) == ("ephemeroot-home-status", 1)
        return {
            entry["target"].removeprefix(f"{HOME}/"): entry["condition"]
            for entry in content["entries"]
        }

    def write(self, path: str, content: str) -> None:
        """Write a file as the user (*path* is below the home unless absolute)."""
        path = path if path.startswith("/") else f"{HOME}/{path}"
        script = 'mkdir -p "$(dirname "$0")" && printf %s "$1" > "$0"'
        self.run("sh", "-c", script, path, content)

    def declare(self, text: str) -> None:
        """Write *text* to ``home.toml``; ``STORE`` in it is the store."""
        self.write(CONFIGURATION, text.replace("STORE", STORE))

    def mounts(self) -> dict[str, str]:
        """The FUSE mounts, with their sources in the mount table."""
        lines = self.sh("cat /proc/self/mountinfo").stdout.splitlines()
        found = {}
        for line in lines:
            before, _, after = line.partition(" - ")
            if after.startswith("fuse"):
                point = before.split(" ")[4].encode().decode("unicode_escape")
                found[point.removeprefix(f"{HOME}/")] = after.split(" ")[1]
        return found

    def processes(self, *words: str) -> list[int]:
        """The user's processes whose command line contains all these words, by their PIDs in the
        namespace.
        """
        found = []
        for path in self.outside("/proc").iterdir():
            if path.name.isdigit():
                try:
                    line = (path / "cmdline").read_bytes().split(b"\0")
                except OSError:  # it has just ended
                    continue
                if all(word.encode() in line for word in words):
                    found.append(int(path.name))
        return found

    def kill(self, number: int, *words: str) -> None:
        """Send a signal to all those processes (at least one), and wait for their end."""
        pids = self._outside_numbers(self.processes(*words))
        assert pids, words
        with process_end.watching(pids) as wait:
            for pid in pids:
                os.kill(pid, number)
            wait()

    def _outside_numbers(self, inside: list[int]) -> list[int]:
        """The PIDs that processes of the namespace have here."""
        namespace = os.readlink(f"/proc/{self.first}/ns/pid")
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has just ended
                if os.readlink(path / "ns/pid") == namespace:
                    status = (path / "status").read_text().partition("\nNSpid:")[2]
                    if int(status.partition("\n")[0].split()[-1]) in inside:
                        found.append(int(path.name))
        return found

    def tree(self, top: str = HOME) -> list[str]:
        """All entries below *top*, except our configuration, as the user sees them; links with
        their targets.
        """
        done = self.run("find", top, "-mindepth", "1", "-printf", r"%P %l\n")
        lines = [line.strip() for line in done.stdout.splitlines()]
        return sorted(line for line in lines if not line.startswith(".config"))


def readable_package(folder: Path) -> Path:
    """A copy of the program in the new *folder*.

    It has the byte code of tools/setup: this user cannot write any, and each start would compile
    every module.
    """
    shutil.copytree(Path(ephemeroot.__path__[0]), folder)
    return folder


def one(directory: str, *more: str) -> str:
    """A configuration with that one directory, and more lines for its store."""
    return "\n".join(['[persistence."STORE"]', f"directories = [{directory}]", *more])
