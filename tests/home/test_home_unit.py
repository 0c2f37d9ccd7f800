"""The user unit that applies a home's configuration at each login."""

from __future__ import annotations

import json

import pytest

import ordinary_user
from ordinary_user import HOME, PLAIN, PROGRAM, STORE, OrdinaryUser, one

pytestmark = ordinary_user.NEEDS


def test_enables_and_disables_the_unit(user: OrdinaryUser) -> None:
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


def test_copies_no_unit_if_the_package_has_one(user: OrdinaryUser) -> None:
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


def test_keeps_a_foreign_unit(user: OrdinaryUser) -> None:
    user.declare(PLAIN)
    user.write(".config/systemd/user/ephemeroot-home.service", "[Unit]\n")
    for action in ("enable", "disable"):
        assert (
            "was changed after 'ephemeroot home enable' installed it"
            in user.home(action, rc=1).stderr
        )
    assert user.sh("cat .config/systemd/user/ephemeroot-home.service").stdout == "[Unit]\n"


def test_refuses_a_unit_inside_its_own_mount(user: OrdinaryUser) -> None:
    user.write("home.toml", one('".config"').replace("STORE", STORE))
    done = user.home("enable", "--config", f"{HOME}/home.toml", rc=2)
    assert "cannot mount ~/.config at login: it would hide the unit" in done.stderr
    user.declare(one('".config"'))
    assert "~/.config contains this configuration file" in user.home("check", rc=2).stdout


@pytest.mark.requires_program("systemd-analyze")
def test_systemd_accepts_the_unit(user: OrdinaryUser) -> None:
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
