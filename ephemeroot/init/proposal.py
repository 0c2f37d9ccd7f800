"""A commented configuration for one machine, and the steps until it takes effect."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from ephemeroot import backends
from ephemeroot.backends.commands import STORE
from ephemeroot.backends.contract import Layout, Step
from ephemeroot.backends.survey import Survey
from ephemeroot.config.syntax.toml_text import array, quote
from ephemeroot.errors import Refused
from ephemeroot.init import presets, steps
from ephemeroot.init.presets import Found

_WIDTH = 94

_VOLATILE = ("tmpfs", "ramfs", "overlay", "squashfs", "erofs", "iso9660", "nfs", "nfs4")
"""Filesystems of live and network roots, which are not an installation to convert."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """``configuration`` is the text of ephemeroot.toml, ``steps`` are the remaining steps."""

    layout: Layout
    configuration: str
    steps: tuple[Step, ...]

    def text(self) -> str:
        """Configuration and steps. The steps are comments, so the text can be saved as the file."""
        return f"{self.configuration}\n{_comment(_left_to_do(self.steps))}"


def of(survey: Survey) -> Proposal:
    """The proposal for the surveyed machine. Raises ``Refused``."""
    layout = _layout(survey)
    found = [
        _off_volumes(one, survey) for one in presets.found(survey.machine.root, presets.load())
    ]
    found = [one for one in found if one.directories or one.files or one.copies]
    parts = [_header(survey, layout), layout.tables, _store(layout, found)]
    return Proposal(layout, "\n".join(parts), tuple(steps.of(survey, layout)))


def _layout(survey: Survey) -> Layout:
    """The layout from the first backend that supports the machine. Raises ``Refused``."""
    line = next((line for line in survey.lines if line.mount_point == STORE), None)
    if survey.type in _VOLATILE:
        raise Refused(
            f"cannot propose a configuration for a root on {survey.type}: not an installed system",
            "if the root is already ephemeral, run 'ephemeroot status'",
        )
    for backend in backends.installed():
        layout = backend.proposal(survey, line)
        if layout is not None:
            return layout
    raise Refused(
        f"cannot propose a configuration: no installed wiper supports a root on {survey.type}",
        "see 'man 5 ephemeroot.toml' for the wipers",
    )


def _off_volumes(one: Found, survey: Survey) -> Found:
    def keep(paths: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(path for path in paths if not survey.is_on_volume(path))

    return Found(one.title, one.why, keep(one.directories), keep(one.files), keep(one.copies))


def _header(survey: Survey, layout: Layout) -> str:
    unknown = survey.unsupported or "no supported initramfs generator"
    maker = survey.generator.NAME if survey.generator else unknown
    return _comment(
        f"Proposed by `ephemeroot init` for {survey.machine.host_name or 'this machine'}: its root "
        f"is {layout.root}, its initramfs is made by {maker}. "
        "Review it, and add or remove paths. It takes effect "
        "when you run `ephemeroot apply`, which shows its steps first.\n\n"
        f"{layout.explanation}"
    )


def _store(layout: Layout, found: list[Found]) -> str:
    directories = [(one, path) for one in found for path in one.directories]
    entries = [(one, quote(path)) for one in found for path in one.files]
    entries += [
        (one, f'{{ file = {quote(path)}, method = "copy" }}')
        for one in found
        for path in one.copies
    ]
    head = _comment(
        "Persistent paths. The next boot seeds a declared path from the root if the store lacks "
        "it; for large paths on another filesystem use `ephemeroot adopt`."
    )
    return (
        f"{head}[persistence.{quote(layout.store)}]\n"
        "hide-mounts = true                   # file managers do not list the binds\n"
        f"directories = {_grouped([(one, quote(path)) for one, path in directories])}\n"
        f"files = {_grouped(entries)}\n"
    )


def _grouped(items: list[tuple[Found, str]]) -> str:
    """A TOML array with the titles of the presets as comments."""
    if not items:
        return array([])
    lines = ["[\n"]
    last: Found | None = None
    for one, item in items:
        if one is not last:
            why = f" ({one.why})" if one.why else ""
            lines.append(f"  # {one.title}{why}\n")
            last = one
        lines.append(f"  {item},\n")
    return "".join([*lines, "]"])


def _left_to_do(todo: tuple[Step, ...]) -> str:
    lines = ["Remaining steps, as root and in this order:", ""]
    for number, step in enumerate(todo, 1):
        lines += textwrap.wrap(f"{number}. {step.title}", _WIDTH, subsequent_indent="   ")
        lines += [f"     {command}" for command in step.commands]
    if steps.continues_after_reboot(todo):
        lines += ["", "After the reboot run `ephemeroot init` again: it prints the next steps."]
    return "\n".join(lines)


def _comment(text: str) -> str:
    out = []
    for line in text.split("\n"):
        # Commands are not wrapped: a wrapped one could not be pasted.
        is_command = line.startswith("     ")
        parts = [line] if is_command else textwrap.wrap(line, _WIDTH) or [""]
        out += [f"# {part}".rstrip() for part in parts]
    return "\n".join(out) + "\n"
