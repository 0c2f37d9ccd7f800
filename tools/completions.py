#!/usr/bin/env python3
"""Write the completions of bash, zsh and fish from the parser of the command line.

    .venv/bin/python -P tools/completions.py            write completions/
    .venv/bin/python -P tools/completions.py --check    fail if a file there is not up to date

The scripts start no Python: what they offer is in them. Verbs that other programs call are left
out.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ephemeroot.cli import arguments, verbs

TOP = Path(__file__).resolve().parent.parent
FOLDER = TOP / "completions"

FILE, DIRECTORY, COMMAND, OLD_ROOT, NOTHING = "file", "directory", "command", "old-root", "nothing"
"""Everything that can be completed, except words."""

_KINDS = {
    "FILE": FILE, "PATH": FILE, "DIR": DIRECTORY, "MOUNT-POINT": DIRECTORY, "-- COMMAND": COMMAND,
    "WHAT": OLD_ROOT, "NAME": OLD_ROOT, "NAME2": OLD_ROOT,
}  # fmt: skip
_NO_OLD_ROOT = ("host", "machine_id")

NAMES = "/run/ephemeroot/boot.json"
"""The record of the boot, which names the old roots: readable without root, and fast."""
PATTERN = "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}-[0-9]{2}-[0-9]{2}Z(\\.[0-9]+)?(\\.[a-z]+)*"

HEAD = "# Made by tools/completions.py from the parser: do not edit."


@dataclass(frozen=True)
class Value:
    """A value of an argument: ``words`` if only these are allowed, otherwise a value of that
    ``kind``.
    """

    kind: str = NOTHING
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Option:
    """``names`` of one option, and its ``value``, ``None`` if it takes none."""

    names: tuple[str, ...]
    help: str
    value: Value | None


@dataclass
class Node:
    """The words that lead to a parser (``roots list``), and the words that can follow them.
    ``repeats``: the last of ``positionals`` can be given several times.
    """

    path: str
    options: list[Option] = field(default_factory=list)
    positionals: list[Value] = field(default_factory=list)
    repeats: bool = False
    below: dict[str, str] = field(default_factory=dict)


def nodes() -> list[Node]:
    """The whole command line, without hidden verbs and options."""
    shown = [verb for verb in verbs.VERBS if verb not in verbs.PLUMBING]
    found = list(_nodes(arguments.parser(shown), ""))
    found[0].below["help"] = "show the help of a verb"
    helped = Node("help", positionals=[Value(words=tuple(shown))])
    return [*found, helped]


def _nodes(parser: argparse.ArgumentParser, path: str) -> Iterator[Node]:
    node = Node(path)
    inner: list[tuple[str, argparse.ArgumentParser]] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                node.below[choice.dest] = _text(choice.help)
                inner.append((choice.dest, action.choices[choice.dest]))
        elif action.option_strings:
            value = _value(action) if action.nargs != 0 else None
            node.options.append(Option(tuple(action.option_strings), _text(action.help), value))
        else:
            node.positionals.append(_value(action))
            node.repeats = action.nargs in ("+", "*", argparse.REMAINDER)
    yield node
    for name, one in inner:
        yield from _nodes(one, f"{path} {name}".strip())


def _value(action: argparse.Action) -> Value:
    if action.choices is not None:
        return Value(words=tuple(map(str, action.choices)))
    kind = _KINDS.get(str(action.metavar), NOTHING)
    if kind == OLD_ROOT and action.dest in _NO_OLD_ROOT:
        kind = NOTHING
    if action.metavar == "WHAT":
        return Value(OLD_ROOT, ("fresh", "base"))
    return Value(kind)


def _text(help: str | None) -> str:
    return " ".join((help or "").split()).replace("%%", "%")


def valued(found: list[Node]) -> list[str]:
    """The options that take a value, in all verbs: no name is used for both kinds."""
    taking = {name for n in found for o in n.options if o.value for name in o.names}
    alone = {name for n in found for o in n.options if not o.value for name in o.names}
    if taking & alone:
        raise SystemExit(f"with a value and without one: {', '.join(taking & alone)}")
    return sorted(taking)


# bash

_BASH = r"""
_ephemeroot() {
    local current=$2 previous=$3 path='' seen=0 skip='' word after='' REPLY=''
    COMPREPLY=()
    # bash splits at "=", which is part of --option=value.
    if [ "$current" = = ]; then current=''; previous=${COMP_WORDS[COMP_CWORD - 1]}
    elif [ "$previous" = = ]; then previous=${COMP_WORDS[COMP_CWORD - 2]}; fi
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        if [ "$skip" ]; then
            [ "$word" = = ] || skip=''
            continue
        fi
        if [ "$after" ]; then seen=$((seen + 1)); continue; fi
        case $word in
            --) after=yes ;;
            =) ;;
            @VALUED@) skip=yes ;;
            -*) ;;
            *)
                if [ "$seen" = 0 ] && _ephemeroot_below "$path" &&
                    [[ " $REPLY " == *" $word "* ]]; then
                    path=${path:+$path }$word
                else
                    seen=$((seen + 1))
                fi ;;
        esac
    done
    if [ "$skip" ]; then
        _ephemeroot_value "$path" "$previous"
        _ephemeroot_offer "$current"
        return
    fi
    if [[ $current == -* && ! $after ]]; then
        _ephemeroot_options "$path"
        mapfile -t COMPREPLY < <(compgen -W "$REPLY" -- "$current")
        return
    fi
    if _ephemeroot_below "$path"; then
        [ "$seen" != 0 ] || mapfile -t COMPREPLY < <(compgen -W "$REPLY" -- "$current")
        return
    fi
    _ephemeroot_argument "$path" "$seen"
    _ephemeroot_offer "$current"
}

_ephemeroot_offer() {
    local word
    for word in $REPLY; do
        case $word in
            @file) compopt -o filenames 2>/dev/null
                mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -f -- "$1") ;;
            @directory) compopt -o filenames 2>/dev/null
                mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -d -- "$1") ;;
            @command) mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -c -- "$1") ;;
            @old-root) mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(
                compgen -W "$(grep -oE '@PATTERN@' @NAMES@ 2>/dev/null | sort -u)" -- "$1") ;;
            *) mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -W "$word" -- "$1") ;;
        esac
    done
}
"""


def bash() -> str:
    """The completion for bash, which does not need the package bash-completion."""
    found = nodes()
    below = {n.path: " ".join(n.below) for n in found if n.below}
    options = {n.path: " ".join(name for o in n.options for name in o.names) for n in found}
    values = {
        f"{n.path}:{name}": _offers(o.value)
        for n in found for o in n.options if o.value for name in o.names
    }  # fmt: skip
    arguments_: dict[str, str] = {}
    for node in found:
        for number, value in enumerate(node.positionals):
            last = node.repeats and number == len(node.positionals) - 1
            arguments_[f"{node.path}:{'*' if last else number}"] = _offers(value)
    body = _BASH.replace("@VALUED@", " | ".join(valued(found)))
    body = body.replace("@PATTERN@", PATTERN).replace("@NAMES@", NAMES)
    return "\n".join((
        "# shellcheck shell=bash",
        HEAD,
        "",
        _function("below", "$1", below, missing="return 1"),
        _function("options", "$1", options),
        _function("value", "$1:$2", values),
        _function("argument", "$1:$2", arguments_),
        body.strip(),
        "",
        "complete -F _ephemeroot ephemeroot",
        "",
    ))  # fmt: skip


def _offers(value: Value) -> str:
    kinds = [] if value.kind == NOTHING else [f"@{value.kind}"]
    return " ".join([*value.words, *kinds])


def _function(name: str, key: str, table: dict[str, str], missing: str = "") -> str:
    """A function that stores the entry of *table* for its arguments in REPLY."""
    groups: dict[str, list[str]] = {}
    for path, words in table.items():
        if words:
            groups.setdefault(words, []).append(path)
    lines = [f"_ephemeroot_{name}() {{", "    REPLY=''", f'    case "{key}" in']
    for words, paths in groups.items():
        patterns = " | ".join(_pattern(path) for path in paths)
        lines.append(f"        {patterns}) REPLY={shlex.quote(words)} ;;")
    if missing:
        lines.append(f"        *) {missing} ;;")
    return "\n".join([*lines, "    esac", "}", ""])


def _pattern(path: str) -> str:
    fixed, star = (path[:-1], "*") if path.endswith(":*") else (path, "")
    return f"'{fixed}'{star}"


# zsh

_ZSH_NAMES = f"""\
_ephemeroot_old_roots() {{
    local -a names
    names=(${{(f)"$(grep -oE '{PATTERN}' {NAMES} 2>/dev/null | sort -u)"}})
    compadd "$@" -a names
}}
"""
_ZSH_ACTIONS = {
    FILE: "_files", DIRECTORY: "_files -/", COMMAND: "_normal", OLD_ROOT: "_ephemeroot_old_roots",
    NOTHING: " ",
}  # fmt: skip


def zsh() -> str:
    """The completion for zsh."""
    found = nodes()
    parts = ["#compdef ephemeroot", HEAD, "", _ZSH_NAMES]
    parts += [_zsh_function(node) for node in found]
    parts.append('_ephemeroot "$@"\n')
    return "\n".join(parts)


def _zsh_name(path: str) -> str:
    return "_".join(["_ephemeroot", *path.split()]).replace("-", "_")


def _zsh_function(node: Node) -> str:
    specs = []
    for option in node.options:
        text = _zsh_escape(option.help)
        value = "" if option.value is None else f":{_zsh_value(option.value)}"
        # --name=VALUE and --name VALUE
        names = [f"{name}=" if value and name.startswith("--") else name for name in option.names]
        if len(names) == 1:
            specs.append(f"'{names[0]}[{text}]{value}'")
        else:
            specs.append(f"'({' '.join(option.names)})'{{{','.join(names)}}}'[{text}]{value}'")
    lines = [f"{_zsh_name(node.path)}() {{"]
    if node.below:
        lines += ["    local curcontext=$curcontext state line", "    typeset -A opt_args"]
        specs += ["'1: :->word'", "'*:: :->rest'"]
        lines += _zsh_arguments("-C", specs)
        lines += ["    case $state in", "        word)", "            local -a words_",
                  "            words_=("]  # fmt: skip
        lines += [
            f"                {shlex.quote(f'{name}:{text}')}" for name, text in node.below.items()
        ]
        lines += ["            )", "            _describe -t words 'command' words_ ;;",
                  "        rest)", "            case $line[1] in"]  # fmt: skip
        for name in node.below:
            inner = _zsh_name(f"{node.path} {name}".strip())
            lines.append(f"                {name}) {inner} ;;")
        lines += ["            esac ;;", "    esac"]
    else:
        for number, one in enumerate(node.positionals, 1):
            last = node.repeats and number == len(node.positionals)
            place = "*" if last else str(number)
            # Two colons: a command is completed as on a line of its own.
            colons = "::" if one.kind == COMMAND else ":"
            specs.append(f"'{place}{colons}{_zsh_value(one)}'")
        lines += _zsh_arguments("", specs)
    return "\n".join([*lines, "}", ""])


def _zsh_arguments(flags: str, specs: list[str]) -> list[str]:
    lines = [f"    _arguments {flags}".rstrip() + " \\"]
    return [*lines, *(f"        {spec} \\" for spec in specs[:-1]), f"        {specs[-1]}"]


def _zsh_value(value: Value) -> str:
    if value.words and value.kind == OLD_ROOT:
        words = " ".join(value.words)
        return f"value:{{ compadd {words}; _ephemeroot_old_roots }}"
    if value.words:
        return f"value:({' '.join(value.words)})"
    return f"{value.kind}:{_ZSH_ACTIONS[value.kind]}"


def _zsh_escape(text: str) -> str:
    for character in ("\\", "[", "]", ":"):
        text = text.replace(character, f"\\{character}")
    return text.replace("'", "'\\''")


# fish

_FISH = """\
# The words that lead to the parser, and how many arguments follow them: "roots delete" and 0.
function __ephemeroot_place
    set -l words (commandline -opc)
    set -l place
    set -l seen 0
    set -l skip 0
    set -l after 0
    for word in $words[2..-1]
        if test $skip = 1
            set skip 0
            continue
        end
        if test $after = 1
            set seen (math $seen + 1)
            continue
        end
        switch $word
            case --
                set after 1
            case @VALUED@
                set skip 1
            case '-*'
            case '*'
                set -l longer (string join ' ' $place $word)
                if test $seen = 0; and contains -- $longer $__ephemeroot_places
                    set place $place $word
                else
                    set seen (math $seen + 1)
                end
        end
    end
    echo (string join ' ' $place)
    echo $seen
end

function __ephemeroot_at
    test (__ephemeroot_place)[1] = "$argv[1]"
end

# At that place, with that many arguments before; or at least as many.
function __ephemeroot_argument
    set -l found (__ephemeroot_place)
    test "$found[1]" = "$argv[1]"; or return
    test $found[2] = $argv[2]; or test "$argv[3]" = more -a $found[2] -ge $argv[2]
end

function __ephemeroot_old_roots
    string match -ra -- '@PATTERN@' (cat @NAMES@ 2>/dev/null) | sort -u
end
"""
_FISH_ACTIONS = {
    FILE: "-F", DIRECTORY: "-xa '(__fish_complete_directories)'",
    COMMAND: "-xa '(__fish_complete_command)'", OLD_ROOT: "-xa '(__ephemeroot_old_roots)'",
    NOTHING: "-x",
}  # fmt: skip


def fish() -> str:
    """The completion for fish."""
    found = nodes()
    places = " ".join(f"'{node.path}'" for node in found if node.path)
    body = _FISH.replace("@VALUED@", " ".join(valued(found)))
    body = body.replace("@PATTERN@", PATTERN.replace("(", "(?:")).replace("@NAMES@", NAMES)
    lines = [
        HEAD,
        "",
        f"set -g __ephemeroot_places {places}",
        "",
        body,
        "complete -c ephemeroot -f",
    ]
    for node in found:
        first = f"complete -c ephemeroot -n \"__ephemeroot_argument '{node.path}' 0\""
        here = f"complete -c ephemeroot -n \"__ephemeroot_at '{node.path}'\""
        lines += [f"{first} -xa {name} -d {_fish_quote(text)}" for name, text in node.below.items()]
        for option in node.options:
            names = " ".join(
                f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
                for name in option.names
            )
            value = "" if option.value is None else " " + _fish_value(option.value)
            lines.append(f"{here} {names}{value} -d {_fish_quote(option.help)}")
        for number, one in enumerate(node.positionals):
            more = " more" if node.repeats and number == len(node.positionals) - 1 else ""
            at = f"-n \"__ephemeroot_argument '{node.path}' {number}{more}\""
            lines.append(f"complete -c ephemeroot {at} {_fish_value(one)}")
    return "\n".join([*lines, ""])


def _fish_value(value: Value) -> str:
    if value.words and value.kind == OLD_ROOT:
        return f"-xa '{' '.join(value.words)} (__ephemeroot_old_roots)'"
    if value.words:
        return f"-xa '{' '.join(value.words)}'"
    # Only a marked option with a value gets completion of files.
    return f"-r{_FISH_ACTIONS[value.kind][1:]}" if value.kind == FILE else _FISH_ACTIONS[value.kind]


def _fish_quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def scripts() -> dict[str, str]:
    """The name of each file in completions/, as its shell looks for it, with its content."""
    return {"ephemeroot": bash(), "_ephemeroot": zsh(), "ephemeroot.fish": fish()}


def main(words: list[str]) -> int:
    """The command line; returns the exit status."""
    if words not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    old = []
    for name, text in scripts().items():
        path = FOLDER / name
        if words == [] and (not path.exists() or path.read_text(encoding="utf-8") != text):
            path.write_text(text, encoding="utf-8")
        if words and path.read_text(encoding="utf-8") != text:
            old.append(name)
    for name in old:
        print(f"completions/{name} is not up to date: run tools/completions.py")
    return int(bool(old))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
