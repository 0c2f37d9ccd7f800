"""What is left to do before a proposed configuration holds, with the exact commands."""

from __future__ import annotations

from ephemeroot.backends.contract import Layout, Step
from ephemeroot.backends.survey import Survey
from ephemeroot.image.generators import installed

_FILE = "/etc/ephemeroot/ephemeroot.toml"


def of(survey: Survey, layout: Layout) -> list[Step]:
    """The steps, in the order in which they must be taken."""
    found = [
        _generator(survey),
        *layout.prepare,
        _configuration(),
        _module(survey),
        *layout.finish,
        Step("Look for mistakes, and try a boot without booting:",
             ("ephemeroot check", "ephemeroot rehearse")),
        Step("Make it count, and boot the first ephemeral root:", ("ephemeroot apply", "reboot")),
    ]  # fmt: skip
    return [step for step in found if step is not None]


def _generator(survey: Survey) -> Step | None:
    if survey.generator is not None:
        return None
    wanted = installed.recommended()
    made = f"{survey.unsupported} cannot carry it" if survey.unsupported else "none was found here"
    title = f"An initramfs made by {wanted.NAME} ({made}):"
    return Step(title, (wanted.installation(survey.has),))


def _configuration() -> Step:
    return Step(
        "This configuration in its place:",
        ("mkdir -p /etc/ephemeroot", f"ephemeroot init > {_FILE}", f'"${{EDITOR:-vi}}" {_FILE}'),
    )


def _module(survey: Survey) -> Step | None:
    generator = survey.generator or installed.recommended()
    install = () if survey.has_module else (f"ephemeroot setup {generator.NAME}",)
    commands = (*install, *generator.NOTES)
    return Step(f"The module for {generator.NAME}:", commands) if commands else None
