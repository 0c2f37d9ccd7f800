"""Everything that must be true of a machine after a verb was interrupted, and after a second run.

This module asks the product nothing: it compares states that `verb_machine` read from the disk.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from dataclasses import dataclass

from verb_cases import Case
from verb_machine import Entry, VerbMachine

State = dict[str, Entry]

_STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ[^/]*")
_IN_PLACE = ("disk/root", "disk/persistent")
"""Subvolumes whose content verbs change file by file."""


@dataclass(frozen=True)
class Seen:
    """The state of a machine at one moment."""

    state: State
    mounts: frozenset[str]

    @classmethod
    def of(cls, machine: VerbMachine) -> Seen:
        return cls(machine.state(), frozenset(machine.mounts()))


@dataclass(frozen=True)
class Course:
    """The states of one case without interruption: ``before``, ``done``, and ``again``, after a
    second run.
    """

    case: Case
    before: Seen
    done: Seen
    again: Seen

    # Undisturbed

    def judge_itself(self) -> list[str]:
        """Forbidden changes that the verb made."""
        found = []
        for seen, run in ((self.done, ""), (self.again, " by a second run")):
            for name in sorted(self.before.state.keys() | seen.state.keys()):
                one, other = self.before.state.get(name), seen.state.get(name)
                if one != other and not _matches(name, self.case.changes):
                    found.append(f"{name} was changed{run}: {one} -> {other}")
            found += [
                f"the mount '{line}' was changed{run}"
                for line in sorted(seen.mounts ^ self.before.mounts)
                if line.split()[1] not in self.case.mounts
            ]
        return found

    # Interrupted

    def judge_interrupted(self, seen: Seen) -> list[str]:
        """Names that were lost, or changed only in part where that is not allowed."""
        return [*self._lost(seen.state), *self._trees(seen.state), *self._mounts(seen)]

    def _lost(self, state: State) -> list[str]:
        """Each name has its previous or its new content."""
        before, after = self.before.state, _renamed(self.done.state, self.before.state)
        found = []
        state = _renamed(state, before)
        for name in sorted(before.keys() | state.keys()):
            now, was, becomes = state.get(name), before.get(name), after.get(name)
            if now == was or _alike(now, becomes):
                continue
            if was is None and becomes is None and _is_temporary(name):
                continue
            if _matches(name, self.case.varies) and now is not None:
                continue
            found.append(f"{name} is neither what it was nor what it becomes: {was} -> {now}")
        return found

    def _trees(self, state: State) -> list[str]:
        """No subvolume is lost under any name, and subvolumes are only replaced as a whole."""
        before, after, now = (_trees(s) for s in (self.before.state, self.done.state, state))
        found = [
            f"the content of {name} is lost"
            for name, digest in before.items()
            if name not in _IN_PLACE and digest not in now.values() and digest in after.values()
        ]
        found += [
            f"{name} is gone"
            for name in ("disk/root", "disk/root-base", "disk/persistent")
            if name in before and name not in now
        ]
        base = now.get("disk/root-base")
        if base not in (before.get("disk/root-base"), after.get("disk/root-base")):
            found.append("the base is neither the previous one nor the new one")
        return found

    def _mounts(self, seen: Seen) -> list[str]:
        mine = self.before.mounts ^ self.done.mounts
        return [
            f"the mount '{line}' is left behind" if line in seen.mounts else f"'{line}' is gone"
            for line in sorted((seen.mounts ^ self.before.mounts) - mine)
        ]

    # After a second run

    def judge_completed(self, seen: Seen, code: int) -> list[str]:
        """Whether the second run completed the interrupted one."""
        found = []
        if code not in (self.case.code, self.case.again):
            found.append(f"run again, its exit code is {code}")
        before = self.before.state
        first, second = (_renamed(s.state, before) for s in (self.done, self.again))
        state = _renamed(seen.state, before)
        for name in sorted(first.keys() | second.keys() | state.keys()):
            now = state.get(name)
            if _alike(now, first.get(name)) or _alike(now, second.get(name)):
                continue
            varies = _matches(name, self.case.varies) and (name in first or name in second)
            if now is not None and (varies or self._may_stay(name, state)):
                continue
            if now is not None and name not in first and _is_temporary(name):
                found.append(f"{name} is left over")
            else:
                found.append(f"{name} is not what an undisturbed run makes of it: {now}")
        if seen.mounts not in (self.done.mounts, self.again.mounts):
            other = seen.mounts ^ self.done.mounts
            found.append(f"mounts differ from those of an undisturbed run: {sorted(other)}")
        return found

    def _may_stay(self, name: str, state: State) -> bool:
        """Whether it is an empty directory that an interrupted run may leave."""
        below = {one for one in state if one.startswith(f"{name}/")}
        return name in self.case.may_stay and below <= set(self.case.may_stay)


def left_over(problems: list[str]) -> list[str]:
    """The names among *problems* that are mere leftovers: the next boot may remove them."""
    return [line.removesuffix(" is left over") for line in problems if line.endswith("left over")]


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _alike(one: Entry | None, other: Entry | None) -> bool:
    """Equal except for times: two runs write at different times."""
    if one is None or other is None:
        return one is other
    return one.alike == other.alike


def _is_temporary(name: str) -> bool:
    """Whether it is, or is in, a file that only the program uses."""
    return "/.ephemeroot/" in name or any(
        ".ephemeroot" in part[1:]
        or part.startswith(".ephemeroot-")
        or part.endswith((".new", ".unused"))
        for part in name.split("/")
    )


def _renamed(state: State, before: State) -> State:
    """*state*, in which names made from the clock since *before* are replaced by numbers."""
    known = {m for name in before for m in _STAMP.findall(name)}
    found = {m for name in state for m in _STAMP.findall(name)} - known
    new = sorted(stamp for stamp in found if not stamp.endswith(".unused"))
    numbers = {stamp: f"new-{index}" for index, stamp in enumerate(new)}

    def rename(match: re.Match[str]) -> str:
        return numbers.get(match[0], match[0])

    return {_STAMP.sub(rename, name): entry for name, entry in state.items()} if new else state


def _trees(state: State) -> dict[str, str]:
    """Each subvolume's name, and a digest of its content without other subvolumes and without files
    that an interrupted run will remove.
    """
    tops = [name for name, entry in state.items() if entry.kind == "subvolume"]
    tops = [name for name in tops if name != "disk"]
    content: dict[str, list[str]] = {name: [] for name in tops}
    for name, entry in state.items():
        top = max((t for t in tops if name.startswith(f"{t}/")), key=len, default=None)
        if top is not None and not _is_temporary(name[len(top) :]):
            content[top].append(f"{name[len(top) :]} {entry.alike}")
    return {
        name: hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
        for name, lines in content.items()
    }
