"""Persistence that a user runs without root, with real FUSE and bindfs."""

from __future__ import annotations

import json

import pytest

import ordinary_user
from ordinary_user import (
    CONFIGURATION,
    HOME,
    NAME,
    NOTHING,
    PLAIN,
    PROGRAM,
    STORE,
    UID,
    OrdinaryUser,
    one,
)

pytestmark = ordinary_user.NEEDS


def test_declared_paths_are_mounted_and_linked(user: OrdinaryUser) -> None:
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
    with pytest.raises(PermissionError):  # other users have no access, not even root
        list(user.outside(f"{HOME}/Downloads").iterdir())


def test_applying_twice_changes_nothing(user: OrdinaryUser) -> None:
    user.declare(PLAIN)
    user.home("apply")
    before = user.sh("cat /proc/self/mountinfo").stdout, user.tree(), user.tree(STORE)
    assert user.home("apply").stdout == "3 entries: all in place\n"
    assert json.loads(user.home("apply", "--json").stdout)["operations"] == []
    assert (user.sh("cat /proc/self/mountinfo").stdout, user.tree(), user.tree(STORE)) == before


def test_a_dry_run_changes_nothing_and_prints_the_steps(user: OrdinaryUser) -> None:
    user.declare(PLAIN)
    said = user.home("apply", "--dry-run").stdout.splitlines()[:-1]
    assert f"mount {STORE}/Downloads on {HOME}/Downloads" in said
    assert (user.tree(), user.tree(STORE), user.mounts()) == ([], [], {})
    assert user.home("apply").stdout.splitlines()[:-1] == said
    said = user.home("stop", "--all", "--dry-run").stdout.splitlines()
    assert f"unmount {HOME}/Downloads" in said
    assert user.status()["Downloads"] == "mounted"
    assert user.home("stop", "--all").stdout.splitlines() == said


def test_paths_no_longer_declared_are_undone_and_keep_their_data(user: OrdinaryUser) -> None:
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


def test_directories_that_existed_or_are_not_empty_stay(user: OrdinaryUser) -> None:
    user.sh("mkdir -p mine/deep")
    user.declare(one('"mine/deep/Downloads", "ours/deep/Music"'))
    user.home("apply")
    user.write("ours/file", "of the user\n")
    user.declare(NOTHING)
    user.home("apply")
    assert user.tree() == ["mine", "mine/deep", "ours", "ours/file"]
    user.sh("rm ours/file")
    user.home("apply")
    # the user's own directory, because it had a file
    assert user.tree() == ["mine", "mine/deep", "ours"]


def test_a_changed_method_is_applied(user: OrdinaryUser) -> None:
    user.write(f"{STORE}/Music/song", "la\n")
    for method in ("bindfs", "symlink", "bindfs"):
        user.declare(one(f'{{ directory = "Music", method = "{method}" }}'))
        user.home("apply")
        assert user.sh("cat Music/song").stdout == "la\n"
        assert (user.sh("test -L Music", check=False).returncode == 0) == (method == "symlink")
        assert bool(user.mounts()) == (method == "bindfs")


def test_an_entry_inherits_the_method_of_its_store(user: OrdinaryUser) -> None:
    lines = '"Music", { directory = "Downloads", method = "bindfs" }'
    user.declare(one(lines, 'default-directory-method = "symlink"'))
    user.home("apply")
    assert user.status() == {"Music": "linked", "Downloads": "mounted"}


def test_a_changed_store_is_applied(user: OrdinaryUser) -> None:
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


def test_a_missing_store_is_not_created_and_mounts_stay(user: OrdinaryUser) -> None:
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


def test_a_mode_is_copied_to_the_store(user: OrdinaryUser) -> None:
    user.sh("mkdir -m 0700 .gnupg")
    user.declare(one('".gnupg"'))
    user.home("apply")
    assert user.sh(f"stat -c %a .gnupg {STORE}/.gnupg").stdout == "700\n700\n"


def test_a_store_for_stow(user: OrdinaryUser) -> None:
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


def test_odd_names_in_a_home(user: OrdinaryUser) -> None:
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


def test_files_in_the_way_are_reported_and_left(user: OrdinaryUser) -> None:
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
        "full": "the target is a directory that is not empty",
        "file": "the target is a file",
        "link": "the target is a link to link-goal, not created by ephemeroot",
        "empty": "the target is a directory",
        "a-file/below": f"{HOME}/a-file is not a directory",
    }.items():
        assert f"{HOME}/{name} is in the way: {reason}" in done.stderr
    assert f"hint: move its content to {STORE}/full" in done.stderr
    assert [path for path in user.tree() if not path.startswith((".local", "Music"))] == before
    assert user.sh("cat full/file file a-file").stdout == "1\n2\n3\n"
    assert user.home("check").stdout.count("is in the way") == 6
    user.declare(one('"full"'))
    user.home("stop")
    # Music was undone, which is partial success
    assert "in the way" in user.home("apply", rc=10).stderr


def test_an_empty_directory_gives_way_to_a_link(user: OrdinaryUser) -> None:
    user.sh("mkdir Music")
    user.declare(one('{ directory = "Music", method = "symlink" }'))
    user.home("apply")
    assert user.status() == {"Music": "linked"}


def test_entries_of_another_store_inside_a_mount(user: OrdinaryUser) -> None:
    user.as_root(f"mkdir /mnt/other; chown {NAME} /mnt/other")
    inner = '[persistence."/mnt/other"]\ndirectories = ["a/b/c"]\nfiles = ["a/rc"]\n'
    user.declare(inner)
    user.home("apply")
    user.write("a/b/c/file", "inner\n")
    user.as_root("echo user_allow_other >> /etc/fuse.conf")
    outer = one('"a"', "allow-other = true")
    user.declare(f"{outer}\n{inner}")  # the outer entry is mounted later, below the inner one
    user.home("apply")
    assert user.status() == {"a": "mounted", "a/b/c": "mounted", "a/rc": "linked"}
    assert user.sh("cat a/b/c/file").stdout == "inner\n"
    assert user.home("apply").stdout == "3 entries: all in place\n"
    user.home("stop")
    assert user.mounts() == {}
    user.home("apply")
    user.home("stop")
    user.declare(outer)  # only while nothing is mounted: links inside show up afterwards
    user.home("apply")
    assert user.tree(STORE) == ["a"]
    user.declare(inner)
    user.home("apply")
    assert user.status() == {"a/b/c": "mounted", "a/rc": "linked"}
    assert user.sh("cat a/b/c/file").stdout == "inner\n"


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


def test_only_one_run_at_a_time_changes_a_home(user: OrdinaryUser) -> None:
    user.declare(PLAIN)
    holder = user.start("flock", HOME, "sh", "-c", "echo ready; read line")
    assert "the home is in use by another run" in user.home("apply", rc=3).stderr
    user.home("status", rc=10)  # read-only verbs need not wait
    holder.communicate("go\n", timeout=120)
    user.home("apply")


def test_reports_paths_that_root_persists(user: OrdinaryUser) -> None:
    user.as_root(
        "mkdir -p /etc/ephemeroot; cat > /etc/ephemeroot/ephemeroot.toml <<'E'\n"
        '[root]\nwiper = "btrfs"\n[persistence."/mnt/persistent"]\n'
        f'users.{NAME} = {{ directories = ["Downloads", ".config"], files = ["deep/file"] }}\nE\n'
    )
    user.declare(one('"Downloads", ".config/fish", "deep", "Music"'))
    lines = user.home("check").stdout.splitlines()
    assert len([line for line in lines if "the system already persists" in line]) == 1
    assert len([line for line in lines if ", which the system persists in" in line]) == 2
    told = next(line for line in lines if "the system already persists ~/Downloads" in line)
    assert told.startswith("warning: ")
    assert "in /mnt/persistent" in told
    assert "/etc/ephemeroot/ephemeroot.toml:4" in lines[lines.index(told) + 1]
    assert any("~/deep contains ~/deep/file" in line for line in lines)
    assert not any("Music" in line for line in lines)
    user.as_root("chmod 0700 /etc/ephemeroot")
    assert "cannot read the system's configuration" in user.home("check").stdout


def test_leaves_roots_binds_alone(user: OrdinaryUser) -> None:
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


def test_reports_missing_programs(user: OrdinaryUser) -> None:
    user.declare(PLAIN)
    user.as_root("printf '#!/bin/sh\\necho bindfs 1.13.11\\n' > /mnt/bin/bindfs; "
                 "chmod +x /mnt/bin/bindfs")  # fmt: skip
    assert "is bindfs 1.13.11, which is too old" in user.home("check", rc=2).stdout
    assert "too old" in user.home("apply", rc=10).stderr
    assert user.status()[".screenrc"] == "linked"
    user.as_root("rm /mnt/bin/bindfs; chmod 0600 /dev/fuse")
    assert "this user cannot open /dev/fuse" in user.home("check", rc=2).stdout
    user.as_root("chmod 0666 /dev/fuse; mount --bind -o nosuid /usr/bin /usr/bin; "
                 "cp /usr/bin/fusermount3 /mnt/plain; chmod 0755 /mnt/plain; "
                 "mount --bind /mnt/plain $(readlink -f /usr/bin/fusermount3)")  # fmt: skip
    assert "is not setuid root" in user.home("check", rc=2).stdout


def test_reports_another_file_type_in_the_store(user: OrdinaryUser) -> None:
    user.sh(f"echo x > {STORE}/Music; mkdir {STORE}/.screenrc")
    user.declare(one('"Music"', 'files = [".screenrc"]'))
    done = user.home("apply", rc=1)
    assert f"in the store, {STORE}/Music is a file" in done.stderr
    assert f"in the store, {STORE}/.screenrc is a directory" in done.stderr
    assert "declare it in directories" in user.home("check", rc=2).stdout


def test_refuses_the_home_of_another_user(user: OrdinaryUser) -> None:
    for home in ("/mnt", "/", "/nowhere"):
        done = user.home("apply", rc=2, environment={"HOME": home})
        assert "home" in done.stderr


def test_follows_the_xdg_directories(user: OrdinaryUser) -> None:
    environment = {"XDG_CONFIG_HOME": f"{HOME}/cfg", "XDG_STATE_HOME": f"{HOME}/st"}
    user.write("cfg/ephemeroot/home.toml", PLAIN.replace("STORE", STORE))
    user.home("apply", environment=environment)
    assert "st/ephemeroot/home.json" in user.tree()
    assert ".local/state" not in user.tree()
    user.home("stop", "--all", environment=environment)
    assert user.tree() == ["cfg", "cfg/ephemeroot", "cfg/ephemeroot/home.toml"]


def test_follows_links_among_the_users_directories(user: OrdinaryUser) -> None:
    user.sh("mkdir -p elsewhere/data; ln -s elsewhere/data data")
    user.declare(one('"data/Music"', 'files = ["data/rc"]'))
    user.home("apply")
    assert user.home("apply").stdout == "2 entries: all in place\n"
    assert set(user.mounts()) == {"elsewhere/data/Music"}
    user.home("stop", "--all")
    assert user.tree() == ["data elsewhere/data", "elsewhere", "elsewhere/data"]


def test_accepts_a_home_behind_a_link(user: OrdinaryUser) -> None:
    user.as_root(f"ln -s {HOME} /mnt/home-link")
    environment = {"HOME": "/mnt/home-link", "XDG_STATE_HOME": "/mnt/home-link/st"}
    user.declare(PLAIN)
    user.home("apply", environment=environment)
    assert user.status() == {
        ".local/share/Steam": "linked", ".screenrc": "linked", "Downloads": "mounted",
    }  # fmt: skip
    user.home("stop", "--all", environment=environment)
    assert user.tree() == []
