"""The parser of the command line, which imports only the module of the verb in use."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any, NoReturn

from ephemeroot import __version__
from ephemeroot.cli import output, verbs
from ephemeroot.errors import Misconfigured

# argparse looks up translations of its texts in several files that do not exist: 600 system calls
# for each verb if a language is set. There are no translations, and this program is in English.
vars(argparse)["_"] = str


class Parser(argparse.ArgumentParser):
    """Raises errors instead of exiting, and suggests a correction for a mistyped word. Options
    cannot be abbreviated: a new option must not change the meaning of an old command line.
    """

    verb = ""
    """The name of the verb until its module is imported, then empty."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": Help, **kwargs, "allow_abbrev": False})
        words = self.prog.split()[1:]
        self.epilog = _examples(verbs.EXAMPLES.get(words[0], ()) if words else verbs.FIRST, words)

    def load(self) -> None:
        """Import the verb's module and declare its arguments, at the first call."""
        if self.verb:
            module = import_module(f"{__package__}.{verbs.module(self.verb)}")
            self.verb = ""
            add_common(self)
            module.configure(self)
            self.set_defaults(run=module.run)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in the base class, but reject unknown arguments here, where the verb's options are
        known.
        """
        self.load()
        found, left_over = super().parse_known_args(args, namespace)
        if left_over:
            known = [name for name in self._option_string_actions if name.startswith("--")]
            self._reject(
                f"unrecognized arguments: {' '.join(left_over)}",
                left_over[0].partition("=")[0],
                known,
            )
        return found, left_over

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        listed: Iterable[str] = map(str, action.choices)
        if isinstance(action, argparse._SubParsersAction):  # without hidden verbs
            listed = [choice.dest for choice in action._choices_actions]
            listed = [*listed, *(["help"] if action.metavar == "VERB" else [])]
        name = action.metavar or action.dest
        self._reject(f"there is no {name} {value!r}", str(value), list(listed))

    def _reject(self, message: str, word: str, known: Sequence[str]) -> NoReturn:
        close = _closest(word, known)
        hint = f"did you mean {close}? " if close else ""
        raise Misconfigured(message, f"{hint}see '{self.prog} --help'")

    def error(self, message: str) -> NoReturn:
        """Raise ``Misconfigured``."""
        raise Misconfigured(message, f"see '{self.prog} --help'")


def _closest(word: str, known: Sequence[str]) -> str | None:
    """The *known* word that *word* abbreviates or misspells, without regard to case and leading
    hyphens.
    """
    import difflib  # takes 3 ms

    names = {name.lstrip("-"): name for name in known}
    plain = word.lstrip("-").lower()
    longer = [name for name in names if plain and name.startswith(plain)]
    if len(longer) == 1:
        return names[longer[0]]
    found = difflib.get_close_matches(plain, names, n=1, cutoff=_CLOSE)
    return names[found[0]] if found else None


class Help(argparse.HelpFormatter):
    """Keeps the line breaks of examples. The width is the same as that of the base class, which
    imports ``shutil`` and four compressors to find it.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith(_HEADING):
            return text
        return super()._fill_text(text, width, indent)


def _columns() -> int:
    """The width of the terminal, found as ``shutil.get_terminal_size`` does."""
    try:
        columns = int(os.environ.get("COLUMNS", ""))
    except ValueError:
        columns = 0
    if 0 < columns < 10_000:
        return columns
    try:
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or 80  # type: ignore[union-attr]
    except (AttributeError, OSError, ValueError):
        return 80


_HEADING = "examples:\n"

# A swap of two letters in a word of four has the ratio 0.75; `since` and `lines` have 0.6.
_CLOSE = 0.65


def _examples(known: Iterable[tuple[str, str]], words: Sequence[str]) -> str | None:
    """The examples that begin with *words*, each with its explanation."""
    found = [
        (f"ephemeroot {line}", text)
        for line, text in known
        if line.split()[: len(words)] == list(words)
    ]
    if not found:
        return None
    lines = [f"  {line}\n      {text}" for line, text in found]
    return (_HEADING + "\n".join(lines)).replace("%", "%%")


def parser(load: Iterable[str] = ()) -> Parser:
    """The parser of the whole command line. The verbs in *load* are complete; the others are
    completed at their first use.
    """
    top = Parser(prog="ephemeroot", description="A root filesystem that is new at every boot.")
    version = f"ephemeroot {__version__}"
    top.add_argument("-V", "--version", action="version", version=version)
    top.set_defaults(config=None, root="/", json=False)
    add_common(top)
    actions = top.add_subparsers(metavar="VERB", required=True, parser_class=Parser)
    for name in verbs.installed():
        line = verbs.VERBS[name]
        listed: dict[str, Any] = {} if name in verbs.PLUMBING else {"help": line}
        made = actions.add_parser(name, description=line, **listed)
        made.verb = name
        if name in load:
            made.load()
    return top


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options that are valid before and after the verb. With SUPPRESS, the default after
    the verb does not reset an option before it.
    """
    group = parser.add_argument_group("options for every command")
    group.add_argument(
        "--config",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="read this configuration only (default: /etc/ephemeroot/ephemeroot.toml "
        "and its drop-ins)",
    )
    group.add_argument(
        "--root",
        metavar="DIR",
        default=argparse.SUPPRESS,
        help="use the machine whose root directory is DIR (default: this machine)",
    )
    output.add_option(group)
