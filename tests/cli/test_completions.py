"""The completions in the real shells offer every verb, option and value of the parser, and no
others.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest

import proof
from checkout import CHECKOUT
from ephemeroot.cli import PLUMBING

SCRIPTS = CHECKOUT / "completions"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("completions", CHECKOUT / "tools/completions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["completions"] = module
    spec.loader.exec_module(module)
    return module


completions = _load()

OLD_ROOTS = {"2026-11-25T07-30-00Z.keep", "2026-11-26T07-30-00Z", "2026-11-26T07-30-00Z.2.unsynced"}

Words = list[str]
"""A command line without the program; the last word is the one to complete."""


def in_bash(folder: Path, questions: list[Words]) -> list[set[str]]:
    lines = ["\x1f".join(["ephemeroot", *words]) for words in questions]
    script = f"""
        source {folder.parent}/scripts/ephemeroot
        while IFS= read -r line; do
            IFS=$'\\x1f' read -r -a COMP_WORDS <<< "$line"
            [[ $line == *$'\\x1f' ]] && COMP_WORDS+=("")
            COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
            _ephemeroot ephemeroot "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD - 1]}}"
            printf '%s\\x1f' "${{COMPREPLY[@]}}"; echo
        done
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script], input="\n".join(lines) + "\n", capture_output=True,
        text=True, check=True, cwd=folder,
    )  # fmt: skip
    assert done.stderr == ""
    return [set(filter(None, line.split("\x1f"))) for line in done.stdout.splitlines()]


def in_fish(folder: Path, questions: list[Words]) -> list[set[str]]:
    asked = "\n".join(
        f"complete -C'{' '.join(['ephemeroot', *words])}'; echo \x1f" for words in questions
    )
    environment = {"HOME": str(folder), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source {folder.parent}/scripts/ephemeroot.fish\n{asked}"],
        capture_output=True, text=True, check=True, cwd=folder, env=environment,
    )  # fmt: skip
    assert done.stderr == ""
    answers = done.stdout.split("\x1f\n")[:-1]
    return [{line.split("\t")[0] for line in one.splitlines()} for one in answers]


_ZSH = r"""
PROMPT=; unsetopt zle_bracketed_paste 2>/dev/null
exec 3>@ANSWERS@
fpath=(@SCRIPTS@ $fpath)
autoload -Uz compinit; compinit -u -D
# The completion adds its offers with compadd: print them instead of showing them.
compadd() {
    if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then builtin compadd "$@"; return; fi
    local -a hits
    builtin compadd -A hits "$@"
    [[ -n $hits ]] && print -l -u3 -- $hits
    builtin compadd "$@"
}
ask() { zle list-choices; print -u3 $'\x1f'; zle kill-buffer; zle reset-prompt }
zle -N ask; bindkey '^X' ask
print -u3 ready
"""


def in_zsh(folder: Path, questions: list[Words]) -> list[set[str]]:
    own = folder.parent / "zsh"
    own.mkdir()
    replies = own / "answers"
    os.mkfifo(replies)
    script = _ZSH.replace("@SCRIPTS@", f"{folder.parent}/scripts").replace(
        "@ANSWERS@", str(replies)
    )
    (own / ".zshrc").write_text(script)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        environment = {"HOME": str(own), "ZDOTDIR": str(own), "TERM": "dumb",
                       "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}  # fmt: skip
        os.execvpe("zsh", ["zsh", "-d", "-i"], environment)
    # Read the terminal's output, too: the shell blocks when the terminal's buffer is full.
    shown = threading.Thread(target=_drain, args=(terminal,), daemon=True)
    shown.start()
    try:
        with open(replies, encoding="utf-8") as answers:
            assert answers.readline() == "ready\n"
            found = []
            for words in questions:
                os.write(terminal, " ".join(["ephemeroot", *words]).encode() + b"\x18")
                lines = iter(answers.readline, "\x1f\n")
                found.append({line.rstrip("\n").rstrip("=") for line in lines})
            return found
    finally:
        os.write(terminal, b"\x15exit\n")
        os.waitpid(pid, 0)
        shown.join()
        os.close(terminal)


def _drain(terminal: int) -> None:
    with suppress(OSError):  # the shell has ended
        while os.read(terminal, 4096):
            pass


SHELLS: dict[str, Callable[[Path, list[Words]], list[set[str]]]] = {
    "bash": in_bash, "fish": in_fish, "zsh": in_zsh,
}  # fmt: skip


@pytest.fixture(params=[
    pytest.param(name, marks=pytest.mark.requires_program(name)) for name in SHELLS
])  # fmt: skip
def ask(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[list[Words]], list[set[str]]]:
    """Ask one of the shells for completions, in a directory with one file and one directory."""
    here = tmp_path / "here"
    for folder in (here, tmp_path / "scripts"):
        folder.mkdir()
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"wiped /": {"kept": sorted(OLD_ROOTS)}}))
    for script in SCRIPTS.iterdir():
        text = script.read_text().replace(completions.NAMES, str(report))
        (tmp_path / "scripts" / script.name).write_text(text)
    (here / "a-file").touch()
    (here / "a-directory").mkdir()
    return lambda questions: SHELLS[request.param](here, questions)


def test_the_completion_files_match_the_parser() -> None:
    for name, text in completions.scripts().items():
        assert (SCRIPTS / name).read_text() == text, "run tools/completions.py"
    assert sorted(completions.scripts()) == sorted(path.name for path in SCRIPTS.iterdir())


def test_verbs_for_other_programs_are_not_offered() -> None:
    for text in completions.scripts().values():
        for verb in PLUMBING:
            assert f"_{verb}" not in text
            assert f" {verb} " not in text.replace("'", " ")


def test_every_verb_option_and_value_is_offered(
    ask: Callable[[list[Words]], list[set[str]]],
) -> None:
    questions: list[Words] = []
    expected: list[set[str]] = []

    def question(words: Words, answer: set[str]) -> None:
        questions.append(words)
        expected.append(answer)

    contents = {
        completions.FILE: {"a-file", "a-directory"},
        completions.DIRECTORY: {"a-directory"},
        completions.OLD_ROOT: OLD_ROOTS,
    }
    for node in completions.nodes():
        words = node.path.split()
        if node.below:
            question([*words, ""], set(node.below))
        else:
            listed = [name for option in node.options for name in option.names]
            question([*words, "--"], {name for name in listed if name.startswith("--")})
        for option in node.options:
            if option.value is None or node.below:
                continue
            answer = set(option.value.words) | contents.get(option.value.kind, set())
            question([*words, option.names[-1], ""], answer)
        if node.positionals and node.positionals[0].words:
            question([*words, ""], set(node.positionals[0].words))
        elif node.positionals and node.positionals[0].kind == completions.OLD_ROOT:
            question([*words, ""], OLD_ROOTS)
        elif node.positionals and node.positionals[0].kind in contents:
            question([*words, "a-"], contents[node.positionals[0].kind])
    chosen = proof.sample(list(zip(questions, expected, strict=True)), 16)
    answers = ask([words for words, _ in chosen])
    for (words, wanted), answer in zip(chosen, answers, strict=True):
        given = {name.rstrip("/") for name in answer}
        if words[-1] == "--":  # a shell may offer -h together with --help
            given = {name for name in given if name.startswith("--")}
        assert given == wanted, words


def test_completes_options_before_the_verb_and_values_after_an_equals_sign(
    ask: Callable[[list[Words]], list[set[str]]], request: pytest.FixtureRequest
) -> None:
    shell = request.node.callspec.params["ask"]
    value = [["check", "--config", "=", "a-f"]] if shell == "bash" else [["check", "--config=a-f"]]
    asked = [["--root", "a-directory", "roo"], ["--json", "roots", "del"], ["roots", "x", "sho"]]
    *found, behind = ask([*asked, *value])
    assert found == [{"roots"}, {"delete"}, set()]
    assert {name.rpartition("=")[2] for name in behind} == {"a-file"}
