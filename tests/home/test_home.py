"""Persistence that a user runs, as an ordinary user, with real FUSE and bindfs."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import pytest

import ordinary_user
import proof
from ephemeroot.home import view
from ordinary_user import CONFIGURATION, HOME, NAME, PROGRAM, STORE, UID, OrdinaryUser

pytestmark = ordinary_user.NEEDS

RECORD = ".local/state/ephemeroot/home.json"

PLAIN = """
[persistence."STORE"]
directories = ["Downloads", { directory = ".local/share/Steam", method = "symlink" }]
files = [".screenrc"]
"""
NOTHING = '[persistence."STORE"]\n'


def one(directory: str, *more: str) -> str:
    """A configuration with that one directory, and more lines for its store."""
    return "\n".join(['[persistence."STORE"]', f"directories = [{directory}]", *more])


def test_what_is_declared_is_mounted_and_linked(user: OrdinaryUser) -> None:
    user.write(f"{STORE}/Downloads/film", "kept\n")
    user.declare(PLAIN)
    user.home("apply")
    assert user.status() == {
        ".local/share/Steam": "linked", ".screenrc": "linked", "Downloads": "mounted",
    }  # fmt: skip
    assert user.sh("cat Downloads/film").stdout == "kept\n"
    user.sh("echo new > Downloads/song; echo save > .local/share/Steam/game; echo x > .screenrc")
    assert user.sh(f"cd {STORE}; cat Downloads/song .local/share/Steam/game .screenrc").stdout == (
        "new\nsave\nx\n"
    )
    assert user.sh("readlink .screenrc").stdout == f"{STORE}/.screenrc\n"
    assert user.mounts() == {"Downloads": f"{STORE}/Downloads"}
    owners = user.sh(f"stat -c %u:%g Downloads/song {STORE}/Downloads {STORE}/.local").stdout
    assert set(owners.split()) == {f"{UID}:{UID}"}
    with pytest.raises(PermissionError):  # nobody else gets in, not even root
        list(user.outside(f"{HOME}/Downloads").iterdir())


def test_applying_twice_changes_nothing(user: OrdinaryUser) -> None:
    user.declare(PLAIN)
    user.home("apply")
    before = user.sh("cat /proc/self/mountinfo").stdout, user.tree(), user.tree(STORE)
    assert user.home("apply").stdout == "3 entries: all in place\n"
    assert json.loads(user.home("apply", "--json").stdout)["operations"] == []
    assert (user.sh("cat /proc/self/mountinfo").stdout, user.tree(), user.tree(STORE)) == before


@pytest.mark.parametrize("then", [("stop", "--all"), ("apply",)], ids=" ".join)
def test_a_link_that_an_interrupted_run_has_set_aside_is_removed(
    user: OrdinaryUser, then: tuple[str, ...]
) -> None:
    """The signal comes after the rename that `stop` begins with."""
    user.declare(PLAIN)
    user.home("apply")
    before = user.tree()
    directory = f"{HOME}/.local/share"
    place = view.aside(f"{directory}/Steam")
    user.sh(f"mv -T {directory}/Steam {place}")
    user.home(*then)
    assert user.sh(f"test -L {place}", check=False).returncode != 0
    assert user.tree() == (before if then == ("apply",) else [])


def test_a_dry_run_changes_nothing_and_says_what_is_done(user: OrdinaryUser) -> None:
    user.declare(PLAIN)
    said = user.home("apply", "--dry-run").stdout.splitlines()[:-1]
    assert f"mount {STORE}/Downloads on {HOME}/Downloads" in said
    assert (user.tree(), user.tree(STORE), user.mounts()) == ([], [], {})
    assert user.home("apply").stdout.splitlines()[:-1] == said
    said = user.home("stop", "--all", "--dry-run").stdout.splitlines()
    assert f"unmount {HOME}/Downloads" in said
    assert user.status()["Downloads"] == "mounted"
    assert user.home("stop", "--all").stdout.splitlines() == said


def test_what_is_not_declared_any_more_is_undone_and_its_data_stays(user: OrdinaryUser) -> None:
    user.declare(PLAIN + '[persistence."/mnt/persistent/home"]\ndirectories = ["a/b/c"]\n')
    user.as_root(f"chown {NAME} /mnt/persistent/home")
    user.home("apply")
    user.sh("echo film > Downloads/film; echo rc > .screenrc; echo abc > a/b/c/file")
    user.declare(one('"Music"'))
    status = json.loads(user.run(PROGRAM, "home", "status", "--json", check=False).stdout)
    assert {item["target"].removeprefix(f"{HOME}/") for item in status["undeclared"]} == {
        ".local/share/Steam", ".screenrc", "Downloads", "a/b/c",
    }  # fmt: skip
    user.home("apply")
    assert user.mounts() == {"Music": f"{STORE}/Music"}
    left = [path for path in user.tree() if not path.startswith(".local")]
    assert left == ["Music"]
    assert user.sh("ls -A .local").stdout == "state\n"
    kept = f"cat {STORE}/Downloads/film {STORE}/.screenrc /mnt/persistent/home/a/b/c/file"
    assert user.sh(kept).stdout == "film\nrc\nabc\n"


def test_directories_that_were_there_or_are_not_empty_stay(user: OrdinaryUser) -> None:
    user.sh("mkdir -p mine/deep")
    user.declare(one('"mine/deep/Downloads", "ours/deep/Music"'))
    user.home("apply")
    user.write("ours/file", "of the user\n")
    user.declare(NOTHING)
    user.home("apply")
    assert user.tree() == ["mine", "mine/deep", "ours", "ours/file"]
    user.sh("rm ours/file")
    user.home("apply")
    assert user.tree() == ["mine", "mine/deep", "ours"]  # the user's own since there was a file


def test_the_method_changes(user: OrdinaryUser) -> None:
    user.write(f"{STORE}/Music/song", "la\n")
    for method in ("bindfs", "symlink", "bindfs"):
        user.declare(one(f'{{ directory = "Music", method = "{method}" }}'))
        user.home("apply")
        assert user.sh("cat Music/song").stdout == "la\n"
        assert (user.sh("test -L Music", check=False).returncode == 0) == (method == "symlink")
        assert bool(user.mounts()) == (method == "bindfs")


def test_the_default_method_of_a_store(user: OrdinaryUser) -> None:
    lines = '"Music", { directory = "Downloads", method = "bindfs" }'
    user.declare(one(lines, 'default-directory-method = "symlink"'))
    user.home("apply")
    assert user.status() == {"Music": "linked", "Downloads": "mounted"}


def test_the_store_changes(user: OrdinaryUser) -> None:
    user.as_root(f"mkdir /mnt/other; chown {NAME} /mnt/other")
    user.write("/mnt/other/Downloads/film", "other\n")
    user.write("/mnt/other/.screenrc", "other\n")
    user.declare(PLAIN)
    user.home("apply")
    user.declare(PLAIN.replace("STORE", "/mnt/other"))
    assert user.status()["Downloads"] == "outdated"
    user.home("apply")
    assert user.sh("cat Downloads/film .screenrc").stdout == "other\nother\n"
    assert user.mounts() == {"Downloads": "/mnt/other/Downloads"}


def test_a_missing_store_is_not_made_and_what_is_mounted_stays(user: OrdinaryUser) -> None:
    user.declare(PLAIN)
    user.home("apply")
    user.declare(PLAIN.replace("STORE", "/mnt/persistent/gone"))
    done = user.home("apply", rc=1)
    assert "the store /mnt/persistent/gone does not exist" in done.stderr
    assert user.mounts() == {"Downloads": f"{STORE}/Downloads"}
    assert user.sh("readlink .screenrc").stdout == f"{STORE}/.screenrc\n"
    assert user.sh("ls /mnt/persistent").stdout == "home\n"
    checked = user.home("check", rc=2)
    assert checked.stdout.count("does not exist") == 1


def test_a_mode_is_taken_over_into_the_store(user: OrdinaryUser) -> None:
    user.sh("mkdir -m 0700 .gnupg")
    user.declare(one('".gnupg"'))
    user.home("apply")
    assert user.sh(f"stat -c %a .gnupg {STORE}/.gnupg").stdout == "700\n700\n"


def test_stow_layout(user: OrdinaryUser) -> None:
    user.write("dotfiles/screen/.screenrc", "startup_message off\n")
    user.write("dotfiles/fish/.config/fish/config.fish", "set x\n")
    user.declare(
        '[persistence."~/dotfiles"]\nremove-prefix-directory = true\n'
        'files = ["screen/.screenrc"]\ndirectories = ["fish/.config/fish"]\n'
    )
    user.home("apply")
    assert (
        user.sh("cat .screenrc .config/fish/config.fish").stdout == "startup_message off\nset x\n"
    )
    assert user.sh("readlink .screenrc").stdout == f"{HOME}/dotfiles/screen/.screenrc\n"
    assert user.mounts() == {".config/fish": f"{HOME}/dotfiles/fish/.config/fish"}


NAMES = (
    "two words", "a,b", "100%", r"back\slash", "new\nline", "#*?[x]", "quo'te\"s", "äöü 🎵", "-o",
    "a,fsname=b", "tab\there", "%2c", ",", "\\134", "x" * 200,
)  # fmt: skip


def test_names(user: OrdinaryUser) -> None:
    directories = ", ".join(json.dumps(name, ensure_ascii=False) for name in NAMES)
    files = ", ".join(json.dumps(f"{name}.file", ensure_ascii=False) for name in NAMES)
    user.declare(one(directories, f"files = [{files}]"))
    user.home("apply")
    linked = {f"{name}.file": "linked" for name in NAMES}
    assert user.status() == {**dict.fromkeys(NAMES, "mounted"), **linked}
    for name in NAMES:
        user.run("sh", "-c", 'echo x > "$0/file" && echo y > "$1"', f"./{name}", f"./{name}.file")
        stored = user.run("cat", f"{STORE}/{name}/file", f"{STORE}/{name}.file").stdout
        assert stored == "x\ny\n", name
    assert user.home("apply").stdout == f"{2 * len(NAMES)} entries: all in place\n"
    user.declare(NOTHING)
    user.home("apply")
    assert (user.tree(), user.mounts()) == ([], {})


def test_what_is_in_the_way_is_reported_and_left(user: OrdinaryUser) -> None:
    user.sh("mkdir full link-goal; echo 1 > full/file; echo 2 > file; ln -s link-goal link")
    user.sh("ln -s /nowhere directory-link; echo 3 > a-file; mkdir empty")
    user.declare(
        one(
            '"full", "file", "directory-link", "a-file/below", "Music"', 'files = ["link", "empty"]'
        )
    )
    before = user.tree()
    done = user.home("apply", rc=10)
    assert user.status() == {
        "full": "in the way", "file": "in the way", "link": "in the way", "empty": "in the way",
        "directory-link": "in the way", "a-file/below": "in the way", "Music": "mounted",
    }  # fmt: skip
    for name, reason in {
        "full": "there is a directory that is not empty",
        "file": "there is a file",
        "link": "there is a link to link-goal that ephemeroot did not create",
        "empty": "there is a directory",
        "a-file/below": f"{HOME}/a-file is not a directory",
    }.items():
        assert f"{HOME}/{name} is in the way: {reason}" in done.stderr
    assert f"hint: move its content to {STORE}/full" in done.stderr
    assert [path for path in user.tree() if not path.startswith((".local", "Music"))] == before
    assert user.sh("cat full/file file a-file").stdout == "1\n2\n3\n"
    assert user.home("check").stdout.count("is in the way") == 6
    user.declare(one('"full"'))
    user.home("stop")
    assert "in the way" in user.home("apply", rc=10).stderr  # Music was undone: a part was


def test_an_empty_directory_gives_way_to_a_link(user: OrdinaryUser) -> None:
    user.sh("mkdir Music")
    user.declare(one('{ directory = "Music", method = "symlink" }'))
    user.home("apply")
    assert user.status() == {"Music": "linked"}


def test_another_mount_is_not_mounted_over_nor_unmounted(user: OrdinaryUser) -> None:
    user.sh("mkdir -p mine Music deep/inner")
    user.sh("bindfs -o no-allow-other mine Music; bindfs -o no-allow-other mine deep/inner")
    before = user.mounts()
    user.declare(one('"Music", "deep"'))
    done = user.home("apply", rc=1)
    assert f"{HOME}/mine (fuse) is mounted there" in done.stderr
    assert "is mounted below it" in done.stderr
    assert user.mounts() == before
    user.declare(NOTHING)
    user.home("apply")
    user.home("stop", "--all")
    assert user.mounts() == before


def test_a_foreign_mount_in_ours_keeps_it_from_being_unmounted(user: OrdinaryUser) -> None:
    user.as_root("echo user_allow_other >> /etc/fuse.conf")
    user.declare(one('"Music"', "allow-other = true"))
    user.home("apply")
    user.sh("mkdir mine Music/inner; bindfs -o no-allow-other mine Music/inner")
    done = user.home("stop", rc=1)
    assert f"{HOME}/mine is mounted below it, on {HOME}/Music/inner" in done.stderr
    assert set(user.mounts()) == {"Music", "Music/inner"}


def test_a_busy_mount_goes_lazily_and_its_holder_is_named(user: OrdinaryUser) -> None:
    user.declare(one('"Music"'))
    user.home("apply")
    script = "cd Music; exec 3> song; echo ready; read line; echo more >&3; cat < song; echo end"
    holder = user.start("sh", "-c", script)
    done = user.home("stop", "--wait", "0.5")
    assert "was unmounted lazily: held by sh (process " in done.stderr
    assert f"which works in {HOME}/Music" in done.stderr
    assert user.mounts() == {}
    assert user.status() == {"Music": "missing"}
    assert user.home("apply").returncode == 0
    output, _ = holder.communicate("go\n", timeout=120)  # it still reads and writes the store
    assert output == "more\nend\n"
    assert user.sh("cat Music/song").stdout == "more\n"


def test_a_mount_that_is_let_go_in_time_is_unmounted_normally(user: OrdinaryUser) -> None:
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
def test_how_a_mount_is_held(user: OrdinaryUser, script: str, how: str) -> None:
    user.declare(one('"Music"'))
    user.home("apply")
    user.write("Music/song", "la\n")
    holder = user.start("sh", "-c", script)
    if how.startswith("runs"):  # and says so
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write("running\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "running\n"
    done = user.home("stop", "--wait", "0")
    assert how.format(HOME) in done.stderr
    holder.communicate("x\n", timeout=120)


def test_a_bindfs_that_died_is_replaced(user: OrdinaryUser) -> None:
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


def test_a_dead_mount_takes_along_what_was_mounted_in_it(user: OrdinaryUser) -> None:
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


def test_entries_of_another_store_inside_of_a_mount(user: OrdinaryUser) -> None:
    user.as_root(f"mkdir /mnt/other; chown {NAME} /mnt/other")
    inner = '[persistence."/mnt/other"]\ndirectories = ["a/b/c"]\nfiles = ["a/rc"]\n'
    user.declare(inner)
    user.home("apply")
    user.write("a/b/c/file", "inner\n")
    user.as_root("echo user_allow_other >> /etc/fuse.conf")
    outer = one('"a"', "allow-other = true")
    user.declare(f"{outer}\n{inner}")  # the outer one comes later, and under it
    user.home("apply")
    assert user.status() == {"a": "mounted", "a/b/c": "mounted", "a/rc": "linked"}
    assert user.sh("cat a/b/c/file").stdout == "inner\n"
    assert user.home("apply").stdout == "3 entries: all in place\n"
    user.home("stop")
    assert user.mounts() == {}
    user.home("apply")
    user.home("stop")
    user.declare(outer)  # while nothing is mounted: links inside show only afterwards
    user.home("apply")
    assert user.tree(STORE) == ["a"]
    user.declare(inner)
    user.home("apply")
    assert user.status() == {"a/b/c": "mounted", "a/rc": "linked"}
    assert user.sh("cat a/b/c/file").stdout == "inner\n"


@pytest.mark.parametrize(
    ("directory", "method"),
    proof.sample(
        [
            (directory, method)
            for directory in (".local", ".local/state", ".local/state/ephemeroot")
            for method in ("bindfs", "symlink")
        ],
        2,
    ),
)
def test_the_record_may_itself_persist(user: OrdinaryUser, directory: str, method: str) -> None:
    user.declare(PLAIN.replace('".local/share/Steam"', '"Steam"'))
    user.home("apply")
    text = PLAIN.replace('".local/share/Steam"', '"Steam"').replace(
        "directories = [", f'directories = [{{ directory = "{directory}", method = "{method}" }}, '
    )
    expected = {
        directory: "mounted" if method == "bindfs" else "linked",
        "Downloads": "mounted", "Steam": "linked", ".screenrc": "linked",
    }  # fmt: skip
    user.declare(text)
    user.home("apply")
    assert user.status() == expected
    assert user.home("apply").stdout == "4 entries: all in place\n"
    assert user.sh(f"cat {RECORD}").stdout == user.sh(f"cat {STORE}/{RECORD}").stdout
    user.home("stop")
    assert user.mounts() == {}
    user.home("apply")
    assert user.status() == expected
    user.sh(f"rm -f .screenrc Steam; fusermount3 -u {directory} || rm {directory}")  # a new boot
    user.sh("fusermount3 -u Downloads; rmdir Downloads; rm -rf .local")
    user.home("apply")
    assert user.status() == expected
    user.declare(PLAIN.replace('".local/share/Steam"', '"Steam"'))
    user.home("apply")
    assert set(user.status().values()) == {"mounted", "linked"}
    assert f"{RECORD} " not in user.tree(STORE)
    user.declare(NOTHING)
    user.home("apply")
    assert (user.tree(), user.mounts()) == ([], {})


def test_a_forged_record_makes_us_remove_nothing(user: OrdinaryUser) -> None:
    user.sh("mkdir mine empty foreign; echo x > file; ln -s file link")
    user.sh("bindfs -o no-allow-other mine foreign; mkdir /mnt/persistent/home/talyz/outside")
    inode = int(user.sh(f"stat -c %i {STORE}/outside").stdout)
    mount = {"boot": "another", "device": "0:1", "fsname": "x", "source": f"{STORE}/x"}
    forged = {
        "format": "ephemeroot-home-record",
        "version": 1,
        "mounts": [{"target": f"{HOME}/foreign", **mount}, {"target": "/", **mount}, 7],
        "links": [
            {"target": f"{HOME}/link", "source": f"{STORE}/link"},
            {"target": f"{HOME}/file", "source": "x"},
            {"target": f"{HOME}/../../mnt/fuse", "source": ""},
        ],
        "directories": [
            {"path": f"{HOME}/empty", "inode": 1},
            {"path": f"{STORE}/outside", "inode": inode},
            {"path": f"{HOME}/empty", "inode": "1"},
            {"path": HOME, "inode": 2},
        ],
    }
    user.write(RECORD, json.dumps(forged))
    user.declare(NOTHING)
    before = [path for path in user.tree() if not path.startswith(".local")]
    user.home("apply")
    user.home("stop", "--all")
    assert [path for path in user.tree() if not path.startswith(".local")] == before
    assert user.sh(f"test -d {STORE}/outside && echo yes").stdout == "yes\n"
    assert set(user.mounts()) == {"foreign"}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "ephemeroot-home-record"}'])
def test_a_damaged_record_is_replaced(user: OrdinaryUser, content: str) -> None:
    user.declare(PLAIN)
    user.home("apply")
    user.write(RECORD, content)
    done = user.home("apply")
    assert f"{HOME}/{RECORD} is " in done.stderr
    assert user.home("apply").stderr == ""
    user.declare(NOTHING)
    user.home("apply")
    assert user.mounts() == {}
    assert [path for path in user.tree() if not path.startswith(".local")] == ["Downloads"]


def test_a_lost_record_does_not_matter_for_what_is_declared(user: OrdinaryUser) -> None:
    user.declare(PLAIN)
    user.home("apply")
    user.sh("rm -r .local/state")
    assert "all in place" in user.home("apply").stdout
    user.sh("rm -r .local/state")
    user.home("stop", "--all")
    assert user.mounts() == {}
    assert ".screenrc" not in " ".join(user.tree())


def test_a_link_that_a_program_replaced_is_reported_and_left(user: OrdinaryUser) -> None:
    user.declare(PLAIN)
    user.home("apply")
    user.sh("echo precious > new; mv new .screenrc")
    done = user.home("apply", rc=10)
    assert "a program replaced the link by a file" in done.stderr
    user.declare(NOTHING)
    user.home("apply")
    assert user.sh("cat .screenrc").stdout == "precious\n"


def test_a_killed_run_is_made_good_by_the_next(user: OrdinaryUser) -> None:
    names = ", ".join(f'"d{n}/inner"' for n in range(8))
    user.declare(one(names, 'files = ["f1", "f2"]'))
    for delay in proof.sample((0.1, 0.2, 0.25, 0.3, 0.35, 0.4), 3):
        words = user.command([PROGRAM, "home", "apply"], {})
        running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            running.wait(delay)
        except subprocess.TimeoutExpired:
            # Any of them may end by itself between the look and the signal.
            for pid in user.processes(PROGRAM):
                user.sh(f"kill -{signal.SIGKILL} {pid} || :")
            running.wait(10)
        user.home("apply")
        assert set(user.status().values()) == {"mounted", "linked"}
        user.home("stop", "--all")
        assert (user.tree(), user.mounts()) == ([], {})


def test_stop_works_without_a_usable_configuration(user: OrdinaryUser) -> None:
    user.declare(PLAIN)
    user.home("apply")
    user.declare("nonsense = [")
    assert "is not valid TOML" in user.home("apply", rc=2).stderr
    assert user.mounts() != {}
    user.home("stop")
    assert user.mounts() == {}
    user.sh(f"rm {CONFIGURATION}")
    user.home("stop", "--all")
    assert user.tree() == []
    assert "does not exist" in user.home("apply", rc=2).stderr


def test_only_one_run_at_a_time(user: OrdinaryUser) -> None:
    user.declare(PLAIN)
    holder = user.start("flock", HOME, "sh", "-c", "echo ready; read line")
    assert "another run uses this home" in user.home("apply", rc=3).stderr
    user.home("status", rc=10)  # who only looks need not wait
    holder.communicate("go\n", timeout=120)
    user.home("apply")


def test_paths_that_root_persists(user: OrdinaryUser) -> None:
    user.as_root(
        "mkdir -p /etc/ephemeroot; cat > /etc/ephemeroot/ephemeroot.toml <<'E'\n"
        '[root]\nwiper = "btrfs"\n[persistence."/mnt/persistent"]\n'
        f'users.{NAME} = {{ directories = ["Downloads", ".config"], files = ["deep/file"] }}\nE\n'
    )
    user.declare(one('"Downloads", ".config/fish", "deep", "Music"'))
    lines = user.home("check").stdout.splitlines()
    assert len([line for line in lines if "root persists already" in line]) == 2
    told = next(line for line in lines if "root persists ~/Downloads already" in line)
    assert told.startswith("warning: ")
    assert "in /mnt/persistent" in told
    assert "/etc/ephemeroot/ephemeroot.toml:4" in lines[lines.index(told) + 1]
    assert any("~/deep contains ~/deep/file" in line for line in lines)
    assert not any("Music" in line for line in lines)
    user.as_root("chmod 0700 /etc/ephemeroot")
    assert "cannot be read" in user.home("check").stdout


def test_what_root_has_bound_is_left_to_root(user: OrdinaryUser) -> None:
    user.sh(f"mkdir -p Downloads .config other {STORE}/Downloads {STORE}/.config")
    user.as_root(
        f"mount --bind {STORE}/Downloads {HOME}/Downloads; mkdir /mnt/x; "
        f"mount --bind /mnt/x {HOME}/other; mount --bind {STORE}/.config {HOME}/.config"
    )
    user.declare(one('"Downloads", "other"', 'files = [".config/file"]'))
    done = user.home("apply", rc=10)
    assert user.status() == {
        "Downloads": "by the system", "other": "in the way", ".config/file": "by the system",
    }  # fmt: skip
    assert "other is in the way" in done.stderr
    assert user.mounts() == {}
    assert user.sh(f"ls -A {STORE}/.config").stdout == "ephemeroot\n"


def test_what_the_machine_lacks(user: OrdinaryUser) -> None:
    user.declare(PLAIN)
    user.as_root("printf '#!/bin/sh\\necho bindfs 1.13.11\\n' > /mnt/bin/bindfs; "
                 "chmod +x /mnt/bin/bindfs")  # fmt: skip
    assert "is bindfs 1.13.11, which is too old" in user.home("check", rc=2).stdout
    assert "too old" in user.home("apply", rc=10).stderr
    assert user.status()[".screenrc"] == "linked"
    user.as_root("rm /mnt/bin/bindfs; chmod 0600 /dev/fuse")
    assert "/dev/fuse may not be opened by this user" in user.home("check", rc=2).stdout
    user.as_root("chmod 0666 /dev/fuse; mount --bind -o nosuid /usr/bin /usr/bin; "
                 "cp /usr/bin/fusermount3 /mnt/plain; chmod 0755 /mnt/plain; "
                 "mount --bind /mnt/plain $(readlink -f /usr/bin/fusermount3)")  # fmt: skip
    assert "is not setuid root" in user.home("check", rc=2).stdout


def test_the_store_has_another_kind_of_file(user: OrdinaryUser) -> None:
    user.sh(f"echo x > {STORE}/Music; mkdir {STORE}/.screenrc")
    user.declare(one('"Music"', 'files = [".screenrc"]'))
    done = user.home("apply", rc=1)
    assert f"in the store, {STORE}/Music is a file" in done.stderr
    assert f"in the store, {STORE}/.screenrc is a directory" in done.stderr
    assert "declare it in directories" in user.home("check", rc=2).stdout


def test_a_mount_can_fail_alone(user: OrdinaryUser) -> None:
    user.sh(f"mkdir {STORE}/closed; chmod 0500 {STORE}/closed")
    user.declare(one('"closed/inner", "Music"'))
    done = user.home("apply", rc=10)
    assert f"{STORE}/closed/inner: Permission denied" in done.stderr
    assert user.status() == {"closed/inner": "missing", "Music": "mounted"}


def test_somebody_elses_home(user: OrdinaryUser) -> None:
    for home in ("/mnt", "/", "/nowhere"):
        done = user.home("apply", rc=2, environment={"HOME": home})
        assert "home" in done.stderr


def test_xdg_directories(user: OrdinaryUser) -> None:
    environment = {"XDG_CONFIG_HOME": f"{HOME}/cfg", "XDG_STATE_HOME": f"{HOME}/st"}
    user.write("cfg/ephemeroot/home.toml", PLAIN.replace("STORE", STORE))
    user.home("apply", environment=environment)
    assert "st/ephemeroot/home.json" in user.tree()
    assert ".local/state" not in user.tree()
    user.home("stop", "--all", environment=environment)
    assert user.tree() == ["cfg", "cfg/ephemeroot", "cfg/ephemeroot/home.toml"]


def test_a_terminated_bindfs_takes_its_mount_along(user: OrdinaryUser) -> None:
    # What systemd does to what is left of a session: the next apply starts from there.
    user.declare(one('"Music"'))
    user.home("apply")
    user.kill(signal.SIGTERM, f"{HOME}/Music")
    assert user.mounts() == {}
    assert user.status() == {"Music": "missing"}
    user.home("apply")
    assert user.status() == {"Music": "mounted"}


def test_directories_of_the_user_that_are_links(user: OrdinaryUser) -> None:
    user.sh("mkdir -p elsewhere/data; ln -s elsewhere/data data")
    user.declare(one('"data/Music"', 'files = ["data/rc"]'))
    user.home("apply")
    assert user.home("apply").stdout == "2 entries: all in place\n"
    assert set(user.mounts()) == {"elsewhere/data/Music"}
    user.home("stop", "--all")
    assert user.tree() == ["data elsewhere/data", "elsewhere", "elsewhere/data"]


def test_a_home_behind_a_link(user: OrdinaryUser) -> None:
    user.as_root(f"ln -s {HOME} /mnt/home-link")
    environment = {"HOME": "/mnt/home-link", "XDG_STATE_HOME": "/mnt/home-link/st"}
    user.declare(PLAIN)
    user.home("apply", environment=environment)
    assert user.status() == {
        ".local/share/Steam": "linked", ".screenrc": "linked", "Downloads": "mounted",
    }  # fmt: skip
    user.home("stop", "--all", environment=environment)
    assert user.tree() == []


def test_stopping_from_inside_of_a_mount(user: OrdinaryUser) -> None:
    user.declare(one('"Music"'))
    user.home("apply")
    script = f"cd Music; exec {PROGRAM} home stop --wait 0"
    assert user.sh(script).stderr == ""


def test_all_busy_mounts_share_the_time_to_wait(user: OrdinaryUser) -> None:
    # So many that one after the other takes minutes, on any machine.
    names = [f"d{number}" for number in range(40)]
    user.declare(one(", ".join(f'"{name}"' for name in names)))
    user.home("apply")
    # bash, for more than ten descriptors.
    opened = " ".join(f"{10 + number}> {name}/x" for number, name in enumerate(names))
    holder = user.start("bash", "-c", f"exec {opened}; echo ready; read line")
    begun = time.monotonic()
    done = user.home("stop", "--wait", "5")
    assert 5 <= time.monotonic() - begun < len(names) * 5
    assert done.stderr.count("unmounted lazily") == len(names)
    holder.communicate("go\n", timeout=120)


def test_enable_and_disable(user: OrdinaryUser) -> None:
    user.home("enable", rc=2)
    user.declare(PLAIN)
    folder = ".config/systemd/user"
    document = json.loads(user.home("enable", "--dry-run", "--json").stdout)
    assert (document["format"], document["dry-run"]) == ("ephemeroot-home-enable", True)
    assert len(document["changes"]) == 2
    assert user.sh(f"test -e {folder}", check=False).returncode == 1
    user.home("enable")
    unit = user.sh(f"cat {folder}/ephemeroot-home.service").stdout
    assert f"\nExecStart={PROGRAM} home apply\n" in unit
    assert f"\nExecStop={PROGRAM} home stop --wait 20\n" in unit
    link = f"{folder}/basic.target.wants/ephemeroot-home.service"
    assert user.sh(f"readlink -f {link}").stdout == f"{HOME}/{folder}/ephemeroot-home.service\n"
    assert "already enabled" in user.home("enable").stdout
    user.write("my config/home 100%.toml", PLAIN.replace("STORE", STORE))
    user.home("enable", "--config", f"{HOME}/my config/home 100%.toml")
    unit = user.sh(f"cat {folder}/ephemeroot-home.service").stdout
    assert f'home --config "{HOME}/my config/home 100%%.toml" apply' in unit
    user.home("--config", f"{HOME}/my config/home 100%.toml", "check")
    user.home("disable")
    assert user.sh(f"ls -A {folder}").stdout == ""
    assert "not enabled" in user.home("disable").stdout


def test_a_packages_unit_needs_no_copy(user: OrdinaryUser) -> None:
    user.declare(PLAIN)
    packaged = "/etc/systemd/user/ephemeroot-home.service"
    source = "/mnt/lib/ephemeroot/systemd/user/ephemeroot-home.service"
    user.as_root(f"mkdir -p /etc/systemd/user; cp {source} {packaged}")
    user.home("enable", "--program", "/usr/bin/ephemeroot")
    link = ".config/systemd/user/basic.target.wants/ephemeroot-home.service"
    assert user.sh(f"readlink {link}").stdout == f"{packaged}\n"
    assert user.sh("ls .config/systemd/user").stdout == "basic.target.wants\n"
    user.home("enable")  # calls another program than the package's
    assert user.sh(f"readlink {link}").stdout == "../ephemeroot-home.service\n"


def test_a_foreign_unit_stays(user: OrdinaryUser) -> None:
    user.declare(PLAIN)
    user.write(".config/systemd/user/ephemeroot-home.service", "[Unit]\n")
    for action in ("enable", "disable"):
        assert (
            "was changed after 'ephemeroot home enable' installed it"
            in user.home(action, rc=1).stderr
        )
    assert user.sh("cat .config/systemd/user/ephemeroot-home.service").stdout == "[Unit]\n"


def test_the_unit_must_not_lie_in_what_it_mounts(user: OrdinaryUser) -> None:
    user.write("home.toml", one('".config"').replace("STORE", STORE))
    done = user.home("enable", "--config", f"{HOME}/home.toml", rc=2)
    assert "~/.config would contain the unit that has to mount it" in done.stderr
    user.declare(one('".config"'))
    assert "~/.config contains this configuration file" in user.home("check", rc=2).stdout


@pytest.mark.requires_program("systemd-analyze")
def test_systemd_understands_the_unit(user: OrdinaryUser) -> None:
    user.write("my config/home.toml", PLAIN.replace("STORE", STORE))
    user.home(
        "enable", "--config", f"{HOME}/my config/home.toml",
        environment={"XDG_STATE_HOME": "/mnt/my state"},
    )  # fmt: skip
    unit = ".config/systemd/user/ephemeroot-home.service"
    environment = {"SYSTEMD_LOG_LEVEL": "warning", "XDG_RUNTIME_DIR": HOME}
    done = user.run(
        "systemd-analyze", "--user", "--man=no", "verify", f"{HOME}/{unit}", environment=environment
    )
    assert "ephemeroot-home" not in done.stderr
    assert 'Environment="XDG_STATE_HOME=/mnt/my state"' in user.sh(f"cat {unit}").stdout


def test_more_files_than_a_sessions_soft_limit_are_open_at_once(user: OrdinaryUser) -> None:
    user.declare(one('"Games"'))
    user.sh(f"mkdir -p {STORE}/Games; cd {STORE}/Games; seq 3000 | xargs touch")
    user.sh(f"ulimit -Sn 1024; {PROGRAM} home apply")
    opened = user.sh(
        "ulimit -Sn $(ulimit -Hn); python3 -c '"
        'files = [open(f"Games/{n}") for n in range(1, 3001)]; print(len(files))\''
    )
    assert opened.stdout == "3000\n"
