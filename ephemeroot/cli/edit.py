"""``ephemeroot edit``: the configuration in an editor, saved once it has no mistakes."""

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

DRAFTS = "/run/ephemeroot.edit"
"""Where the text is while it is edited: only root may enter, and a reboot removes it."""

_EDITORS = ("editor", "vi", "nano")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's own arguments."""
    access.declare(parser, "/etc/ephemeroot")
    parser.add_argument(
        "drop_in",
        nargs="?",
        metavar="FILE",
        help=f"a drop-in in {DROP_INS[-1]}, which may not exist yet (default: {MAIN})",
    )
    parser.add_argument(
        "--editor", metavar="COMMAND", help="the editor (default: $VISUAL, $EDITOR, or vi)"
    )
    parser.add_argument("--dry-run", action="store_true", help="only check the text")


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0: saved, or nothing was changed; 2: it has mistakes, and is not saved."""
    machine = Machine.of(arguments.root)
    edited = _edited(arguments, machine)
    words = _editor(arguments.editor)
    with _draft(edited) as draft:
        while True:
            _call(words, draft, edited)
            content = documents.read(str(draft))
            if content == edited.content:
                return _conclude(arguments, edited, "nothing was changed", saved=False)
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
    return _conclude(arguments, edited, "saved; 'ephemeroot apply' puts it into effect", saved=True)


@dataclass(frozen=True, slots=True)
class Edited:
    """The file at ``target``, called ``shown``; ``content`` is empty and ``mode`` the usual one if
    it does not exist.
    """

    target: str
    shown: str
    content: bytes
    mode: int


def _edited(arguments: argparse.Namespace, machine: Machine) -> Edited:
    if arguments.config is not None and arguments.drop_in is not None:
        raise Misconfigured("--config and a drop-in exclude each other", "leave one out")
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
                f"there is no configuration: {path} does not exist",
                f"'ephemeroot init > {shlex.quote(path)}' writes a proposal",
            ) from None
        content, mode = b"", 0o644
    if os.path.islink(target):
        raise Refused(f"{target} is a link into another root", "edit its target")
    return Edited(target, path, content, mode)


def _drop_in(name: str) -> str:
    folder = DROP_INS[-1]
    name = name.removeprefix(f"{folder}/")
    if "/" in name or name.startswith("."):
        raise Misconfigured(f"{name!r} is not the name of a drop-in", f"it is in {folder}")
    return f"{folder}/{name if name.endswith('.toml') else f'{name}.toml'}"


def _editor(given: str | None) -> list[str]:
    import shutil

    text = given or os.environ.get("VISUAL") or os.environ.get("EDITOR") or ""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise Misconfigured(f"the editor {text!r}: {error}") from None
    if not words:
        words = [next((name for name in _EDITORS if shutil.which(name)), "")]
    if not words[0] or shutil.which(words[0]) is None:
        missing = words[0] or "none of " + ", ".join(_EDITORS)
        raise EphemerootError(f"no editor: {missing} is not installed", "set EDITOR")
    return words


@contextmanager
def _draft(edited: Edited) -> Iterator[Path]:
    """A copy to edit. It stays if it has something that is not saved."""
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
            terminal.warning(f"the text is kept in {draft} until the next boot")
        else:
            _remove(draft)
        raise
    _remove(draft)


def _remove(draft: Path) -> None:
    draft.unlink(missing_ok=True)
    try:
        draft.parent.rmdir()
    except OSError:  # another draft is there
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
    """What ``check`` would report with *content* in the file."""
    return examine(read(machine, main, {edited.shown: content}), machine).problems


def _wants_again(errors: int) -> bool:
    """Whether the user wants to edit it again; False if there is no terminal."""
    if not sys.stdin.isatty():
        return False
    sys.stderr.write(f"{terminal.count(errors, 'error')}: nothing is saved. Edit again? [Y/n] ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    return bool(answer) and answer.strip().lower() in ("", "y", "yes")


def _save(edited: Edited, content: bytes) -> None:
    """Replace the file, unless another program has changed it meanwhile."""
    present = b""
    if os.path.lexists(edited.target):
        present = documents.read(edited.target)
    if present != edited.content:
        raise EphemerootError(
            f"{edited.shown} was changed by another program", "run 'ephemeroot edit' again"
        )
    try:
        os.makedirs(os.path.dirname(edited.target), 0o755, exist_ok=True)
        paths.write_atomically(edited.target, content, edited.mode)
    except OSError as error:
        raise EphemerootError(f"cannot replace {edited.shown}: {error.strerror}") from error


def _conclude(arguments: argparse.Namespace, edited: Edited, line: str, *, saved: bool) -> int:
    if arguments.json:
        output.print_json("edit", {"file": edited.shown, "saved": saved})
    else:
        terminal.say(f"{edited.shown}: {line}")
    return 0
