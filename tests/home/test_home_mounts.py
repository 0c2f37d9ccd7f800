"""Mounts of a home: busy, dead, foreign, nested, and held by programs."""

from __future__ import annotations

import signal
import time

import pytest

import ordinary_user
from ordinary_user import HOME, NAME, NOTHING, PROGRAM, STORE, OrdinaryUser, one

pytestmark = ordinary_user.NEEDS


def test_does_not_mount_over_or_unmount_a_foreign_mount(user: OrdinaryUser) -> None:
    user.sh("mkdir -p mine Music deep/inner")
    user.sh("bindfs -o no-allow-other mine Music; bindfs -o no-allow-other mine deep/inner")
    before = user.mounts()
    user.declare(one('"Music", "deep"'))
    done = user.home("apply", rc=1)
    assert f"{HOME}/mine (fuse) is mounted there" in done.stderr
    assert "is mounted under it" in done.stderr
    assert user.mounts() == before
    user.declare(NOTHING)
    user.home("apply")
    user.home("stop", "--all")
    assert user.mounts() == before


def test_a_foreign_mount_inside_prevents_unmounting(user: OrdinaryUser) -> None:
    user.as_root("echo user_allow_other >> /etc/fuse.conf")
    user.declare(one('"Music"', "allow-other = true"))
    user.home("apply")
    user.sh("mkdir mine Music/inner; bindfs -o no-allow-other mine Music/inner")
    done = user.home("stop", rc=1)
    assert f"{HOME}/mine is mounted under it, on {HOME}/Music/inner" in done.stderr
    assert set(user.mounts()) == {"Music", "Music/inner"}


def test_a_busy_mount_is_detached_and_its_holder_named(user: OrdinaryUser) -> None:
    user.declare(one('"Music"'))
    user.home("apply")
    script = "cd Music; exec 3> song; echo ready; read line; echo more >&3; cat < song; echo end"
    holder = user.start("sh", "-c", script)
    done = user.home("stop", "--wait", "0.5")
    assert "was unmounted lazily: in use by sh (process " in done.stderr
    assert f"which works in {HOME}/Music" in done.stderr
    assert user.mounts() == {}
    assert user.status() == {"Music": "missing"}
    assert user.home("apply").returncode == 0
    output, _ = holder.communicate("go\n", timeout=120)  # it still reads and writes the store
    assert output == "more\nend\n"
    assert user.sh("cat Music/song").stdout == "more\n"


def test_a_mount_that_is_released_in_time_is_unmounted_normally(user: OrdinaryUser) -> None:
    user.declare(one('"Music"'))
    user.home("apply")
    holder = user.start("sh", "-c", "cd Music; echo ready; sleep 1")
    done = user.home("stop", "--wait", "20")
    assert done.stderr == ""
    assert user.mounts() == {}
    holder.communicate(timeout=120)


@pytest.mark.parametrize(
    ("script", "how"),
    [
        ("exec 3< Music/song; echo ready; read x", "has opened {}/Music/song"),
        ("cp /bin/cat Music/program; echo ready; exec Music/program", "runs {}/Music/program"),
    ],
)
def test_each_kind_of_use_keeps_a_mount_busy(user: OrdinaryUser, script: str, how: str) -> None:
    user.declare(one('"Music"'))
    user.home("apply")
    user.write("Music/song", "la\n")
    holder = user.start("sh", "-c", script)
    if how.startswith("runs"):  # and reports it
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write("running\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "running\n"
    done = user.home("stop", "--wait", "0")
    assert how.format(HOME) in done.stderr
    holder.communicate("x\n", timeout=120)


def test_replaces_a_dead_bindfs(user: OrdinaryUser) -> None:
    user.declare(one('"Music", "Downloads"'))
    user.home("apply")
    user.write("Music/song", "la\n")
    user.kill(signal.SIGKILL, f"{HOME}/Music")
    assert user.status() == {"Music": "dead", "Downloads": "mounted"}
    assert user.sh("cat Music/song", check=False).returncode != 0
    user.home("apply")
    assert user.status() == {"Music": "mounted", "Downloads": "mounted"}
    assert user.sh("cat Music/song").stdout == "la\n"
    user.kill(signal.SIGKILL, f"{HOME}/Music")
    assert user.home("stop").stderr == ""
    assert user.mounts() == {}


def test_removes_a_dead_mount_with_the_mounts_inside(user: OrdinaryUser) -> None:
    user.as_root(f"mkdir /mnt/other; chown {NAME} /mnt/other")
    user.as_root("echo user_allow_other >> /etc/fuse.conf")
    outer = one('"a"', "allow-other = true")
    user.declare(f'{outer}\n[persistence."/mnt/other"]\ndirectories = ["a/b"]\n')
    user.home("apply")
    user.write("a/b/file", "x\n")
    user.kill(signal.SIGKILL, f"{HOME}/a")
    user.home("apply")
    assert user.status() == {"a": "mounted", "a/b": "mounted"}
    assert user.sh("cat a/b/file /mnt/other/a/b/file").stdout == "x\nx\n"


def test_allow_other_needs_the_administrator(user: OrdinaryUser) -> None:
    user.declare(one('"Music"', 'files = [".screenrc"]', "allow-other = true"))
    user.as_root("sed -i 's/^user_allow_other/#&/' /etc/fuse.conf")
    checked = user.home("check", rc=2)
    assert "home.toml:4" in checked.stdout
    assert "allow-other needs 'user_allow_other' in /etc/fuse.conf" in checked.stdout
    done = user.home("apply", rc=10)
    assert "add the line 'user_allow_other' to /etc/fuse.conf" in done.stderr
    assert user.status() == {"Music": "missing", ".screenrc": "linked"}
    user.as_root("echo user_allow_other >> /etc/fuse.conf")
    assert "no problems" in user.home("check").stdout
    user.home("apply")
    user.write("Music/song", "la\n")
    assert user.outside(f"{HOME}/Music/song").read_text() == "la\n"
    user.declare(one('"Music"'))
    assert user.status() == {"Music": "outdated"}
    user.home("apply")
    with pytest.raises(PermissionError):
        user.outside(f"{HOME}/Music/song").read_text()


def test_one_failed_mount_does_not_affect_the_others(user: OrdinaryUser) -> None:
    user.sh(f"mkdir {STORE}/closed; chmod 0500 {STORE}/closed")
    user.declare(one('"closed/inner", "Music"'))
    done = user.home("apply", rc=10)
    assert f"{STORE}/closed/inner: Permission denied" in done.stderr
    assert user.status() == {"closed/inner": "missing", "Music": "mounted"}


def test_a_terminated_bindfs_unmounts(user: OrdinaryUser) -> None:
    # systemd ends the remaining processes of a session; the next apply starts from that state.
    user.declare(one('"Music"'))
    user.home("apply")
    user.kill(signal.SIGTERM, f"{HOME}/Music")
    assert user.mounts() == {}
    assert user.status() == {"Music": "missing"}
    user.home("apply")
    assert user.status() == {"Music": "mounted"}


def test_stop_from_inside_a_mount(user: OrdinaryUser) -> None:
    user.declare(one('"Music"'))
    user.home("apply")
    script = f"cd Music; exec {PROGRAM} home stop --wait 0"
    assert user.sh(script).stderr == ""


def test_busy_mounts_share_the_waiting_time(user: OrdinaryUser) -> None:
    # So many that waiting for one after the other takes minutes on any machine.
    names = [f"d{number}" for number in range(40)]
    user.declare(one(", ".join(f'"{name}"' for name in names)))
    user.home("apply")
    # bash, because dash has only ten descriptors.
    opened = " ".join(f"{10 + number}> {name}/x" for number, name in enumerate(names))
    holder = user.start("bash", "-c", f"exec {opened}; echo ready; read line")
    begun = time.monotonic()
    done = user.home("stop", "--wait", "5")
    assert 5 <= time.monotonic() - begun < len(names) * 5
    assert done.stderr.count("unmounted lazily") == len(names)
    holder.communicate("go\n", timeout=120)


def test_more_files_than_a_sessions_soft_limit_are_open_at_once(user: OrdinaryUser) -> None:
    user.declare(one('"Games"'))
    user.sh(f"mkdir -p {STORE}/Games; cd {STORE}/Games; seq 3000 | xargs touch")
    user.sh(f"ulimit -Sn 1024; {PROGRAM} home apply")
    opened = user.sh(
        "ulimit -Sn $(ulimit -Hn); python3 -c '"
        'files = [open(f"Games/{n}") for n in range(1, 3001)]; print(len(files))\''
    )
    assert opened.stdout == "3000\n"
