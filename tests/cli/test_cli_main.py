"""The command line itself: usage, exit codes, standard output and standard error."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import ephemeroot
from ephemeroot import terminal
from ephemeroot.cli import PLUMBING, VERBS, arguments, main, verbs
from ephemeroot.errors import EphemerootError, Locked, Misconfigured, Refused
from machine_tree import MAIN, SOUND, MachineTree

PROGRAM = Path(sys.executable).with_name("ephemeroot")


@pytest.fixture
def tree(tmp_path: Path) -> MachineTree:
    return MachineTree(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "the following arguments are required: VERB"),
        (["chekc"], "there is no VERB 'chekc'"),
        (["check", "--no-such-option"], "unrecognized arguments: --no-such-option"),
        (["check", "--jso"], "unrecognized arguments: --jso"),
        (["roots", "delete", "x", "--ye"], "unrecognized arguments: --ye"),
        (["adopt", "--config", "/other.toml", "/srv"], "--config /other.toml does not include"),
        (["check", "--root", "/no/such/directory"], "/no/such/directory is not a directory"),
        (["check", "--config", "/no/such/file"], "/no/such/file does not exist"),
    ],
)
def test_wrong_usage_exits_with_2(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("ephemeroot: error: ")
    assert complaint in captured.err


def test_reports_a_missing_configuration(
    tree: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree.path / MAIN).unlink()
    assert main(["check", "--root", str(tree.path)]) == 2
    assert f"cannot read the configuration: {tree.show()} does not exist" in capsys.readouterr().err


def test_help_lists_the_public_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    listed = {line.split()[0] for line in out.splitlines() if line.startswith("    ")}
    assert {"check", "plan"} <= listed
    assert not listed & set(PLUMBING)
    assert set(PLUMBING) < set(VERBS)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in PLUMBING])
def test_a_mistyped_verb_gets_a_suggestion(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    mistyped = verb[1] + verb[0] + verb[2:] if verb[0] != verb[1] else verb + "x"
    assert main([mistyped]) == 2
    assert f"did you mean {verb}? see 'ephemeroot --help'" in capsys.readouterr().err


@pytest.mark.parametrize("change", [str.upper, str.title, lambda verb: verb[:-1]])
@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in PLUMBING])
def test_a_verb_in_capitals_or_abbreviated_gets_a_suggestion(
    verb: str, change: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([change(verb)]) == 2
    assert f"did you mean {verb}? see 'ephemeroot --help'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["hlep"], "did you mean help? see 'ephemeroot --help'"),
        (["next"], "did you mean next-boot? see 'ephemeroot --help'"),
        (["re"], "see 'ephemeroot --help'"),  # several
        (["next-boot", "rot"], "did you mean root? see 'ephemeroot next-boot --help'"),
        (["check", "json"], "did you mean --json? see 'ephemeroot check --help'"),
        # Options that do not exist and resemble no existing one.
        (["roots", "list", "--all"], "see 'ephemeroot roots list --help'"),
        (["diff", "--since=1"], "see 'ephemeroot diff --help'"),
        (["check", "-V"], "see 'ephemeroot check --help'"),
        (["check", "-"], "see 'ephemeroot check --help'"),
        (["check", "--", "--"], "see 'ephemeroot check --help'"),
        (["check", ""], "see 'ephemeroot check --help'"),
    ],
)
def test_only_similar_words_are_suggested(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"\n  hint: {hint}\n" in said
    assert "what '" not in said


@pytest.mark.parametrize("verb", PLUMBING)
def test_a_hidden_verb_is_not_suggested(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"{verb}x"]) == 2
    assert verb not in capsys.readouterr().err.partition("'ephemeroot")[0].replace(f"{verb}x", "")


def every_option() -> list[tuple[list[str], str]]:
    """Each long option of each verb and action, with the words before it."""
    found: list[tuple[list[str], str]] = []

    def walk(parser: argparse.ArgumentParser, words: list[str]) -> None:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, inner in action.choices.items():
                    walk(inner, [*words, name])
            found.extend((words, name) for name in action.option_strings if name[:2] == "--")

    walk(arguments.parser(VERBS), [])
    return [(words, name) for words, name in found if words]


@pytest.mark.parametrize(("words", "option"), every_option())
def test_a_mistyped_option_gets_a_suggestion(
    words: list[str], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, f"{option}x"]) == 2
    error = capsys.readouterr().err
    # otherwise another argument is reported as missing first
    if f"unrecognized arguments: {option}x" in error:
        assert f"did you mean {option}? see 'ephemeroot {' '.join(words)} --help'" in error


def test_a_verbs_help_is_shown_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["check"], ["roots"], ["roots", "list"]):
        assert main(["help", *words]) == 0
        one = capsys.readouterr().out
        assert main([*words, "--help"]) == 0
        assert one == capsys.readouterr().out
        assert one.startswith(f"usage: {' '.join(['ephemeroot', *words])}")
        assert main(["help", "help", *words]) == 0
        assert one == capsys.readouterr().out


def imported(*words: str) -> set[str]:
    """The modules of the program that a command line imports."""
    script = (
        "import sys\nfrom ephemeroot.cli import main\nmain(sys.argv[1:])\n"
        "print(*(m for m in sys.modules if m.startswith('ephemeroot')), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, *words], capture_output=True, text=True
    )
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["help"], ["chekc"]])
def test_help_imports_no_verb(words: list[str]) -> None:
    assert imported(*words) <= {
        "ephemeroot", "ephemeroot.cli", "ephemeroot.cli.arguments", "ephemeroot.terminal",
        "ephemeroot.cli.output", "ephemeroot.cli.verbs", "ephemeroot.errors",
        "ephemeroot.postponed",
        # Not a verb: the code that recognises an error of the configuration.
        *([] if words != ["chekc"] else [m for m in imported("chekc") if "config" in m or
                                         "linux" in m or "hooks" in m or "wipers" in m]),
    }  # fmt: skip


@pytest.mark.parametrize("words", [["schema"], ["--json", "schema"], ["--root", "/", "schema"]])
def test_imports_only_the_called_verb(words: list[str]) -> None:
    verbs = {f"ephemeroot.cli.{verb.replace('-', '_')}" for verb in VERBS}
    assert imported(*words) & verbs == {"ephemeroot.cli.schema"}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--json", "chekc"], 2),
        (["check", "--json", "--nonsense"], 2),
        (["check", "--json", "--root", "/no/such/directory"], 2),
        (["plan", "--json", "--config", "/no/such/file"], 2),
        (["status", "--json", "--root", "/etc/passwd"], 1),
    ],
)
def test_errors_are_json_with_the_option_json(
    words: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == code
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert captured.err == ""
    assert (found["format"], found["version"]) == ("ephemeroot-error", 1)
    assert found["exit-code"] == code
    assert found["error"]


def test_mistakes_in_the_configuration_are_json_too(
    tree: MachineTree, capsys: pytest.CaptureFixture[str]
) -> None:
    tree.write(MAIN, SOUND.replace("files =", "fils ="))
    assert main(["plan", "--json", "--root", str(tree.path)]) == 2
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert any("fils" in json.dumps(problem) for problem in problems)


def test_every_verb_and_action_has_an_example() -> None:
    leading = {tuple(words) for words, _ in every_option()}
    shown = {words for words in leading if words[0] not in PLUMBING}
    given = [tuple(shlex.split(line)) for lines in verbs.EXAMPLES.values() for line, _ in lines]
    assert {verb for verb, *_ in shown} == set(verbs.EXAMPLES)
    longer = {words for words in shown if len(words) == 2 and words[0] in ("roots", "base")}
    without = {words for words in longer if not any(one[:2] == words for one in given)}
    assert without <= {("roots", name) for name in ("show", "claim", "delete", "unkeep")}


@pytest.mark.parametrize(
    "line", [line for lines in (*verbs.EXAMPLES.values(), verbs.FIRST) for line, _ in lines]
)
def test_each_example_is_a_valid_command_line_and_in_the_help(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(line)
    assert arguments.parser(VERBS).parse_args(words).run
    verb = next(word for word in words if word in VERBS)
    assert main([verb, "--help"]) == 0
    assert f"  ephemeroot {line}\n" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_prints_the_version(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([option]) == 0
    assert capsys.readouterr().out == f"ephemeroot {ephemeroot.__version__}\n"


@pytest.mark.parametrize("before", [True, False])
def test_common_options_may_precede_or_follow_the_verb(
    tree: MachineTree, before: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--root", str(tree.path), "--json"]
    assert main([*options, "check"] if before else ["check", *options]) == 0
    assert json.loads(capsys.readouterr().out)["errors"] == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EphemerootError("it failed", "try again"), 1),
        (Refused("it failed", "try again"), 1),
        (Misconfigured("it failed", "try again"), 2),
        (Locked("it failed", "try again"), 3),
    ],
)
def test_exit_codes_of_errors(
    error: EphemerootError,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(arguments: object) -> int:
        raise error

    monkeypatch.setattr("ephemeroot.cli.schema.run", fail)
    assert main(["schema"]) == code
    assert capsys.readouterr().err == "ephemeroot: error: it failed\n  hint: try again\n"


def test_internal_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(arguments: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr("ephemeroot.cli.schema.run", fail)
    with pytest.raises(ZeroDivisionError):
        main(["schema"])


def test_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["properties"]["persistence"]["type"] == "object"


def test_a_closed_pipe_is_not_an_error(tree: MachineTree) -> None:
    with subprocess.Popen(
        [PROGRAM, "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.close()
        assert run.stderr.read() == b""
    assert run.returncode == 1


def test_a_closed_pipe_before_an_error_message_gives_no_traceback(tree: MachineTree) -> None:
    """Output that precedes the error cannot be written."""
    tree.write(MAIN, SOUND.replace("files =", "fils ="))
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [PROGRAM, "apply", "--dry-run", "--root", tree.path], stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    assert done.returncode == 2
    assert b"fils" in done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr


@pytest.mark.parametrize("words", [["schema"], ["check"], ["--help"]])
def test_reports_output_that_does_not_fit_on_a_full_disk(
    tree: MachineTree, words: list[str]
) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [PROGRAM, "--root", tree.path, *words], stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 1
    assert b"No space left on device\n" in done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr


def test_prints_paths_that_the_locale_cannot_encode(tree: MachineTree) -> None:
    tree.write(MAIN, SOUND.replace('"/var/log"', '"/srv/größe"'))
    environment = {"PATH": os.environ["PATH"], "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [PROGRAM, "plan", "--root", tree.path], capture_output=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert b"/srv/gr\\xf6\\xdfe" in done.stdout


@pytest.mark.requires_root
def test_leave_finish_prints_json_when_there_is_nothing_to_finish(tree: MachineTree) -> None:
    done = subprocess.run(
        [PROGRAM, "leave", "--finish", "--json", "--root", tree.path], capture_output=True
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["format"], document["left"]) == ("ephemeroot-leave", False)


def test_ctrl_c_while_waiting_for_another_run(tree: MachineTree) -> None:
    """The other run is this test."""
    folder = os.open(tree.path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    with subprocess.Popen(
        [PROGRAM, "leave", "--finish", "--root", tree.path], stderr=subprocess.PIPE
    ) as run:
        assert run.stderr is not None
        assert b"waiting until it ends" in run.stderr.readline()
        run.send_signal(signal.SIGINT)
        assert run.stderr.read() == b"ephemeroot: error: interrupted\n"
    os.close(folder)
    assert run.returncode == 130


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False),
                                                    ({"TERM": "dumb"}, False)])  # fmt: skip
def test_uses_colour_on_a_terminal(
    tree: MachineTree, variables: dict[str, str], coloured: bool
) -> None:
    tree.write(MAIN, SOUND.replace("files =", "fils ="))
    ours, its = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "TERM": "xterm", **variables}
    subprocess.run([PROGRAM, "plan", "--root", tree.path], stderr=its, env=environment)
    os.close(its)
    printed = os.read(ours, 4096)
    os.close(ours)
    assert b"unknown key `fils`" in printed
    assert (b"\x1b[31merror:\x1b[0m" in printed) == coloured


def test_uses_no_colour_in_a_pipe(tree: MachineTree) -> None:
    run = subprocess.run([PROGRAM, "plan", "--root", tree.path], capture_output=True)
    assert run.returncode == 0
    assert b"\x1b" not in run.stdout + run.stderr


def test_escapes_unprintable_characters() -> None:
    text = os.fsdecode(b"a\xffb") + "\x1b[2J\n\u202ezoë"
    assert terminal.printable(text) == "a\\xffb\\x1b[2J\\n\\u202ezoë"


@pytest.mark.parametrize("words", [["--version"], ["check", "--root", "ROOT"], ["nonsense"]])
@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "02", "12", "012"])
def test_accepts_closed_standard_streams(words: list[str], closed: str, tmp_path: Path) -> None:
    MachineTree(tmp_path)
    command = [str(PROGRAM), *(word.replace("ROOT", str(tmp_path)) for word in words)]
    redirections = " ".join(f"{number}{'<' if number == '0' else '>'}&-" for number in closed)
    shell = ["sh", "-c", f'exec "$@" {redirections}', "-"]
    usual = subprocess.run(command, capture_output=True, text=True)
    done = subprocess.run([*shell, *command], capture_output=True, text=True)
    assert done.returncode == usual.returncode
    assert done.stdout == ("" if "1" in closed else usual.stdout)
    assert done.stderr == ("" if "2" in closed else usual.stderr)
