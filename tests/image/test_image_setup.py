"""`ephemeroot setup dracut` installs files, and `--remove` removes the same files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ephemeroot import cli

MODULE = "usr/lib/dracut/modules.d/50ephemeroot"


def tree(root: Path) -> dict[str, str]:
    """All files below *root*: mode, or a link's target."""
    return {
        str(p.relative_to(root)): str(p.readlink())
        if p.is_symlink()
        else f"{p.stat().st_mode & 0o777:o}"
        for p in root.rglob("*")
        if p.is_symlink() or p.is_file()
    }


def test_installs_and_removes_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["setup", "dracut", "--root", str(tmp_path)]) == 0
    installed = tree(tmp_path)
    folder = "usr/lib/systemd/system"
    assert installed == {
        f"{MODULE}/module-setup.sh": "755",
        "usr/lib/dracut/dracut.conf.d/50-ephemeroot.conf": "644",
        f"{MODULE}/boot": "755",
        f"{MODULE}/ephemeroot-inert.service": "644",
        f"{MODULE}/ephemeroot-inert.sh": "755",
        f"{MODULE}/ephemeroot": "/usr/bin/ephemeroot",
        f"{folder}/ephemeroot-boot-complete.service": "644",
        f"{folder}/ephemeroot-prune.service": "644",
        f"{folder}/ephemeroot-copy.path": "644",
        f"{folder}/ephemeroot-copy.service": "644",
        f"{folder}/ephemeroot-copy-again.service": "644",
        f"{folder}/ephemeroot-copy-last.service": "644",
        f"{folder}/ephemeroot-leave.service": "644",
        # Disabled until the administrator enables them.
        f"{folder}/ephemeroot-unsaved.service": "644",
        f"{folder}/ephemeroot-unsaved.timer": "644",
        f"{folder}/ephemeroot-unsaved-shutdown.service": "644",
        f"{folder}/ephemeroot-packages.service": "644",
        f"{folder}/ephemeroot-upgrade.service": "644",
        f"{folder}/ephemeroot-upgrade.timer": "644",
        "usr/lib/systemd/user/ephemeroot-home.service": "644",
        **{
            f"{folder}/{target}.target.wants/ephemeroot-{name}": f"../ephemeroot-{name}"
            for target, name in (
                ("multi-user", "boot-complete.service"),
                ("multi-user", "prune.service"),
                ("multi-user", "copy-again.service"),
                ("sysinit", "copy-last.service"),
                ("sysinit", "leave.service"),
                ("sysinit", "copy.path"),
            )
        },
    }
    said = capsys.readouterr().out
    assert all(f"/{name}" in said for name in installed)
    assert cli.main(["setup", "dracut", "--root", str(tmp_path)]) == 0
    assert tree(tmp_path) == installed
    assert cli.main(["setup", "dracut", "--remove", "--root", str(tmp_path)]) == 0
    assert tree(tmp_path) == {}
    assert not (tmp_path / MODULE).exists()
    assert cli.main(["setup", "dracut", "--remove", "--root", str(tmp_path)]) == 0


def test_sets_up_mkinitcpio(tmp_path: Path) -> None:
    assert cli.main(["setup", "mkinitcpio", "--root", str(tmp_path)]) == 0
    installed = {name: what for name, what in tree(tmp_path).items() if "initcpio" in name}
    assert installed == {
        "usr/lib/initcpio/install/ephemeroot": "755",
        "usr/lib/initcpio/hooks/ephemeroot": "644",
        "usr/lib/initcpio/ephemeroot/boot": "755",
        "usr/lib/initcpio/ephemeroot/ephemeroot-inert.service": "644",
        "usr/lib/initcpio/ephemeroot/ephemeroot": "/usr/bin/ephemeroot",
    }
    assert cli.main(["setup", "mkinitcpio", "--remove", "--root", str(tmp_path)]) == 0
    assert tree(tmp_path) == {}
    assert not (tmp_path / "usr/lib/initcpio/ephemeroot").exists()


def test_setup_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["setup", "dracut", "--json", "--root", str(tmp_path)]
    for more in (["--dry-run"], [], ["--remove"]):
        assert cli.main([*words, *more]) == 0
        document = json.loads(capsys.readouterr().out)
        assert (document["format"], document["version"]) == ("ephemeroot-setup", 1)
        assert document["dry-run"] == (more == ["--dry-run"])
        assert any("module-setup.sh" in line for line in document["changes"])


def test_leaves_foreign_files_alone(tmp_path: Path) -> None:
    assert cli.main(["setup", "dracut", "--root", str(tmp_path)]) == 0
    (tmp_path / MODULE / "mine").write_text("")
    assert cli.main(["setup", "dracut", "--remove", "--root", str(tmp_path)]) == 0
    assert tree(tmp_path) == {f"{MODULE}/mine": "644"}


@pytest.mark.parametrize("record", ["etc/ephemeroot/plan.json", ".ephemeroot/leaving.json"])
def test_removes_nothing_while_a_boot_depends_on_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], record: str
) -> None:
    root = str(tmp_path)
    assert cli.main(["setup", "dracut", "--root", root]) == 0
    (tmp_path / record).parent.mkdir(parents=True)
    (tmp_path / record).write_text("")
    assert cli.main(["setup", "dracut", "--remove", "--dry-run", "--root", root]) == 1
    assert cli.main(["setup", "dracut", "--remove", "--root", root]) == 1
    assert "reboot" in capsys.readouterr().err
    assert (tmp_path / "usr/lib/dracut/modules.d/50ephemeroot/module-setup.sh").exists()


@pytest.mark.parametrize("more", [[], ["--remove"]])
def test_a_dry_run_changes_nothing(
    tmp_path: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if more:
        assert cli.main(["setup", "dracut", "--root", str(tmp_path)]) == 0
    before = tree(tmp_path)
    capsys.readouterr()
    assert cli.main(["setup", "dracut", "--dry-run", "--root", str(tmp_path), *more]) == 0
    assert tree(tmp_path) == before
    assert f"/{MODULE}/module-setup.sh" in capsys.readouterr().out


def test_installs_the_program_from_a_virtual_environment(tmp_path: Path) -> None:
    program = "/opt/venv/bin/ephemeroot"
    assert cli.main(["setup", "dracut", "--root", str(tmp_path), "--program", program]) == 0
    assert (tmp_path / MODULE / "ephemeroot").readlink() == Path(program)
    unit = tmp_path / "usr/lib/systemd/system/ephemeroot-boot-complete.service"
    assert f"ExecStart={program} boot-complete\n" in unit.read_text()


def test_refuses_a_relative_path_of_the_program(tmp_path: Path) -> None:
    arguments = ["setup", "dracut", "--root", str(tmp_path), "--program", "bin/ephemeroot"]
    assert cli.main(arguments) == 2
    assert tree(tmp_path) == {}
