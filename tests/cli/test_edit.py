"""``ephemeroot edit`` checks the edited file before it saves it."""

from __future__ import annotations

import os
import pty
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ephemeroot.cli import edit
from machine_tree import MAIN, SOUND, MachineTree

pytestmark = pytest.mark.requires_root

PROGRAM = Path(sys.executable).with_name("ephemeroot")


@pytest.fixture
def tree(private_mounts: None, tmp_path: Path) -> Iterator[MachineTree]:
    """A machine whose /run is empty, so that drafts of tests that run at the same time are not
    visible.
    """
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
    yield MachineTree(tmp_path)
    subprocess.run(["umount", "/run"], check=True)


def drafts() -> list[Path]:
    folder = Path(edit.DRAFTS)
    return sorted(folder.iterdir()) if folder.exists() else []


def call(
    tree: MachineTree, script: str, *words: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the verb with the shell *script* as editor; the file is ``$1``."""
    editor = ["--editor", f"sh -ec {shlex.quote(script)} sh"] if script else []
    return subprocess.run(
        [PROGRAM, "--root", tree.path, "edit", *editor, *words], capture_output=True, text=True,
        stdin=subprocess.DEVNULL, env={"PATH": os.environ["PATH"], **(environment or {})},
    )  # fmt: skip


def text(tree: MachineTree) -> str:
    return (tree.path / MAIN).read_text()


CHANGE = """sed -i 's|"/var/log"|"/var/log", "/srv/new"|' "$1\""""


def test_saves_a_change_without_mistakes(tree: MachineTree) -> None:
    (tree.path / MAIN).chmod(0o600)
    done = call(tree, CHANGE)
    assert done.returncode == 0, done.stderr
    assert "saved; run 'ephemeroot apply' to put it into effect" in done.stdout
    assert text(tree) == SOUND.replace('"/var/log"', '"/var/log", "/srv/new"')
    assert (tree.path / MAIN).stat().st_mode & 0o777 == 0o600
    assert drafts() == []


def test_saves_nothing_without_a_change_or_in_a_dry_run(tree: MachineTree) -> None:
    before = (tree.path / MAIN).stat().st_mtime_ns
    done = call(tree, "cat $1")
    assert done.returncode == 0
    assert "ephemeroot.toml: unchanged" in done.stdout
    done = call(tree, CHANGE, "--dry-run")
    assert done.returncode == 0
    assert "not saved: dry run" in done.stdout
    assert (tree.path / MAIN).stat().st_mtime_ns == before
    assert drafts() == []


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo '[root' > $1", "is not valid TOML"),
        ("sed -i s/wiper/wipr/ $1", "did you mean"),
        ("""sed -i 's|"/var/log"|"var/log"|' $1""", "var/log"),
        (": > $1", ""),
        ("printf '\\000' > $1", "contains NUL bytes"),
    ],
)
def test_reports_mistakes_and_does_not_save(tree: MachineTree, script: str, said: str) -> None:
    done = call(tree, script)
    if said:
        assert done.returncode == 2, done.stdout
        assert said in done.stderr
        assert f"{tree.show()}" in done.stderr, "it is named as if it were saved"
        (draft,) = drafts()
        assert f"is kept in {draft}" in done.stderr
        assert text(tree) == SOUND
    else:
        assert done.returncode in (0, 2)


def test_a_failed_editor_changes_nothing(tree: MachineTree) -> None:
    done = call(tree, "echo '# more' >> $1; exit 3")
    assert done.returncode == 1
    assert "the editor sh ended with exit status 3" in done.stderr
    assert text(tree) == SOUND
    assert len(drafts()) == 1
    assert call(tree, "exit 3").returncode == 1
    assert len(drafts()) == 1, "without a change nothing is kept"


def test_does_not_overwrite_a_change_of_another_program(tree: MachineTree) -> None:
    other = shlex.quote(tree.show())
    done = call(tree, f"{CHANGE}; echo '# theirs' >> {other}")
    assert done.returncode == 1
    assert "another program has changed it" in done.stderr
    assert text(tree) == SOUND + "# theirs\n"


def test_checks_a_new_drop_in_with_the_other_files(tree: MachineTree) -> None:
    line = '[persistence."/persistent"]\\ndirectories = ["%s"]\\n'
    done = call(tree, f"printf '{line % '/srv/new'}' > $1", "services")
    assert done.returncode == 0, done.stderr
    drop_in = tree.path / "etc/ephemeroot/conf.d/services.toml"
    assert "/srv/new" in drop_in.read_text()
    contradiction = line.replace("directories", "files") % "/var/log"
    done = call(tree, f"printf '{contradiction}' > $1", "services.toml")
    assert done.returncode == 2
    assert "/var/log" in done.stderr
    assert "/srv/new" in drop_in.read_text()
    for wrong in ("../x", "a/b", ".hidden"):
        assert call(tree, "true", wrong).returncode == 2


@pytest.mark.parametrize(("variable", "found"), [("VISUAL", True), ("EDITOR", True), ("X", False)])
def test_uses_the_editor_of_the_environment(tree: MachineTree, variable: str, found: bool) -> None:
    script = tree.write("my editor", '#!/bin/sh\necho "# edited" >> "$1"\n')
    script.chmod(0o755)
    environment = {variable: shlex.quote(str(script)), "PATH": str(tree.path)}
    done = call(tree, "", environment=environment)
    assert done.returncode == (0 if found else 1)
    assert (text(tree) == SOUND + "# edited\n") is found
    assert found or "no editor" in done.stderr


def test_offers_to_edit_again_on_a_terminal(tree: MachineTree) -> None:
    script = (
        'if grep -q wipr $1; then sed -i "s/wipr/wiper/; s/root-base/b2/" $1; '
        "else sed -i s/wiper/wipr/ $1; fi"
    )
    ours, its = pty.openpty()
    os.write(ours, b"\n")
    done = subprocess.run(
        [PROGRAM, "--root", tree.path, "edit", "--editor", f"sh -ec {shlex.quote(script)} sh"],
        stdin=its, capture_output=True, text=True,
    )  # fmt: skip
    os.close(ours)
    os.close(its)
    assert done.returncode == 0, done.stderr
    assert "Edit again? [Y/n]" in done.stderr
    assert text(tree) == SOUND.replace("root-base", "b2")
