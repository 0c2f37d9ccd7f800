"""``ephemeroot edit``: edit the configuration, and save it only without errors."""

from __future__ import annotations

import argparse
import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ephemeroot import terminal
from ephemeroot.cli import access, output
from ephemeroot.config import InvalidConfiguration, Machine, Problem, examine, read
from ephemeroot.config.sources import DROP_INS, MAIN
from ephemeroot.errors import EphemerootError, Misconfigured, Refused
from ephemeroot.linux import documents, paths
from ephemeroot.machine import labelling
from ephemeroot.old_roots import persisted

DRAFTS = "/run/ephemeroot.edit"
"""The folder of the text during editing: only root can enter it, and a reboot removes it."""

_EDITORS = ("editor", "vi", "nano")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own arguments."""
    access.declare(parser, "/etc/ephemeroot")
    parser.add_argument(
        "drop_in",
        nargs="?",
        metavar="FILE",
        help=f"a new or existing drop-in in {DROP_INS[-1]} (default: {MAIN})",
    )
    parser.add_argument(
        "--editor", metavar="COMMAND", help="the editor (default: $VISUAL, $EDITOR, or vi)"
    )
    parser.add_argument("--dry-run", action="store_true", help="only check the text")


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0: saved, or unchanged; 2: not saved because of errors."""
    machine = Machine.of(arguments.root)
    edited = _edited(arguments, machine)
    words = _editor(arguments.editor)
    with _draft(edited) as draft:
        while True:
            _call(words, draft, edited)
            content = documents.read(str(draft))
            if content == edited.content:
                return _conclude(arguments, edited, "unchanged", saved=False)
            problems = _problems(machine, arguments.config, edited, content)
            errors = [problem for problem in problems if not problem.warning]
            terminal.problems(problems, sys.stderr)
            if not errors:
                break
            if not _wants_again(len(errors)):
                raise InvalidConfiguration(errors)
        if arguments.dry_run:
            return _conclude(arguments, edited, "not saved: dry run", saved=False)
        _save(edited, content)
        _label(edited, machine)
    line = "saved; run 'ephemeroot apply' to put it into effect"
    return _conclude(arguments, edited, line, saved=True)


def _label(edited: Edited, machine: Machine) -> None:
    """Give the saved file the label of SELinux's policy."""
    final = persisted.below(edited.target, machine.root.rstrip("/") or "/")
    if final is not None:
        directory, name = os.path.split(final)
        labelling.settle(machine.labels, os.path.dirname(edited.target), directory, [name])


@dataclass(frozen=True, slots=True)
class Edited:
    """The file at ``target``, named ``shown`` in messages. If it does not exist, ``content`` is
    empty and ``mode`` has the default.
    """

    target: str
    shown: str
    content: bytes
    mode: int


def _edited(arguments: argparse.Namespace, machine: Machine) -> Edited:
    if arguments.config is not None and arguments.drop_in is not None:
        raise Misconfigured("cannot combine --config with a drop-in", "omit one of the two")
    path = arguments.config
    if path is None:
        path = MAIN
        if arguments.drop_in is not None:
            path = _drop_in(arguments.drop_in)
        path = path if machine.root == "/" else machine.root.rstrip("/") + path
    target = os.path.realpath(path) if machine.root == "/" else path
    try:
        content = documents.read(target)
        mode = stat.S_IMODE(os.lstat(target).st_mode)
    except FileNotFoundError:
        if arguments.drop_in is None:
            raise Misconfigured(
                f"cannot edit the configuration: {path} does not exist",
                f"run 'ephemeroot init > {shlex.quote(path)}' to write a proposal",
            ) from None
        content, mode = b"", 0o644
    if os.path.islink(target):
        raise Refused(
            f"cannot edit {target}: --root does not follow symbolic links",
            "name the target of the link with --config",
        )
    return Edited(target, path, content, mode)


def _drop_in(name: str) -> str:
    folder = DROP_INS[-1]
    name = name.removeprefix(f"{folder}/")
    if "/" in name or name.startswith("."):
        raise Misconfigured(
            f"{name!r} is not the name of a drop-in", f"name a file in {folder}, without '/'"
        )
    return f"{folder}/{name if name.endswith('.toml') else f'{name}.toml'}"


def _editor(given: str | None) -> list[str]:
    import shutil

    text = given or os.environ.get("VISUAL") or os.environ.get("EDITOR") or ""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise Misconfigured(
            f"cannot parse the editor's command {text!r}: {error}", "set EDITOR, or add --editor"
        ) from None
    if not words:
        words = [next((name for name in _EDITORS if shutil.which(name)), "")]
    if not words[0] or shutil.which(words[0]) is None:
        wanted = [words[0]] if words[0] else _EDITORS
        raise EphemerootError(
            f"no editor is installed (searched for {', '.join(wanted)})",
            "install one, or name yours with EDITOR or --editor",
        )
    return words


@contextmanager
def _draft(edited: Edited) -> Iterator[Path]:
    """A copy to edit. After an error it is kept if it contains unsaved changes."""
    folder = Path(DRAFTS)
    folder.mkdir(mode=0o700, exist_ok=True)
    name = f"{os.urandom(4).hex()}-{os.path.basename(edited.target)}"
    draft = folder / name
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        paths.write_whole(fd, edited.content)
    finally:
        os.close(fd)
    try:
        yield draft
    except BaseException:
        if draft.exists() and draft.read_bytes() != edited.content:
            terminal.warning(f"the unsaved text is kept in {draft} until the next boot")
        else:
            _remove(draft)
        raise
    _remove(draft)


def _remove(draft: Path) -> None:
    draft.unlink(missing_ok=True)
    try:
        draft.parent.rmdir()
    except OSError:  # it contains another draft
        return


def _call(words: list[str], draft: Path, edited: Edited) -> None:
    done = subprocess.run([*words, draft], check=False)
    if done.returncode:
        raise EphemerootError(
            f"the editor {words[0]} ended with exit status {done.returncode}",
            f"{edited.shown} is unchanged",
        )


def _problems(
    machine: Machine, main: str | None, edited: Edited, content: bytes
) -> tuple[Problem, ...]:
    """The problems of the configuration with *content* in the file."""
    return examine(read(machine, main, {edited.shown: content}), machine).problems


def _wants_again(errors: int) -> bool:
    """Whether the user wants to edit it again; False if there is no terminal."""
    if not sys.stdin.isatty():
        return False
    sys.stderr.write(f"Not saved: {terminal.count(errors, 'error')}. Edit again? [Y/n] ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    return bool(answer) and answer.strip().lower() in ("", "y", "yes")


def _save(edited: Edited, content: bytes) -> None:
    """Replace the file. Raises ``EphemerootError`` if another program has changed it."""
    present = b""
    if os.path.lexists(edited.target):
        present = documents.read(edited.target)
    if present != edited.content:
        raise EphemerootError(
            f"cannot save {edited.shown}: another program has changed it",
            "run 'ephemeroot edit' again",
        )
    try:
        os.makedirs(os.path.dirname(edited.target), 0o755, exist_ok=True)
        paths.write_atomically(edited.target, content, edited.mode)
    except OSError as error:
        raise EphemerootError(f"cannot save {edited.shown}: {error.strerror}") from error


def _conclude(arguments: argparse.Namespace, edited: Edited, line: str, *, saved: bool) -> int:
    if arguments.json:
        output.print_json("edit", {"file": edited.shown, "saved": saved})
    else:
        terminal.say(f"{edited.shown}: {line}")
    return 0
