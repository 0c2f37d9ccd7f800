"""The kinds of values in ``[match]``: patterns for host names, and machine ids."""

from __future__ import annotations

import fnmatch
import re
import string

from ephemeroot.config.syntax.kinds import Patterns
from ephemeroot.config.syntax.problem import Mistake

LONGEST = 64
"""The maximum number of characters of a host name (gethostname(2), hostname(5))."""

_CHARACTERS = string.ascii_lowercase + string.digits + "-._"
_TOKEN = re.compile(r"\*|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)
_MACHINE_ID = re.compile(r"[0-9a-f]{32}")


class HostNames(Patterns):
    """A glob pattern for host names, or several; each must match a valid host name."""

    word = "a pattern for host names, or a list of them"

    def item(self, text: str) -> str:
        possible = []
        for token in _TOKEN.findall(text.lower()):
            fitting = _CHARACTERS if token == "*" else fnmatch.filter(_CHARACTERS, token)
            if not fitting:
                raise _no_machine(text, f"no host name contains {token!r}")
            possible.append("" if token == "*" else "".join(fitting))
        if sum(one != "" for one in possible) > LONGEST:
            raise _no_machine(text, f"a host name has at most {LONGEST} characters")
        for end, where in ((possible[0], "begins"), (possible[-1], "ends")):
            if end and not end.strip("-."):
                raise _no_machine(text, f"no host name {where} with {end!r}")
        return text


class MachineIds(Patterns):
    """A machine id, or several (machine-id(5)); dashes are allowed, patterns are not."""

    word = "a machine id, or a list of them"

    def item(self, text: str) -> str:
        plain = text.replace("-", "").lower()
        if not _MACHINE_ID.fullmatch(plain):
            hint = "write the 32 hexadecimal digits of /etc/machine-id"
            if set(text) & set("*?["):
                hint = f"{hint}; only host-name takes patterns"
            raise Mistake(f"{text!r} is not a machine id: it matches no machine", hint)
        if plain == "0" * 32:
            raise Mistake(
                f"{text!r} matches no machine: a machine id is not zero",
                "write the machine id in /etc/machine-id of that machine",
            )
        return text


def _no_machine(text: str, why: str) -> Mistake:
    return Mistake(
        f"{text!r} matches no machine: {why}", "compare it with /etc/hostname of that machine"
    )
