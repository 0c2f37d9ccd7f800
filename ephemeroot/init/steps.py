"""What is left to do before a proposed configuration holds, with the exact commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ephemeroot.backends.contract import Layout, Step
from ephemeroot.backends.survey import Survey
from ephemeroot.config import plugins
from ephemeroot.image.generators import installed
from ephemeroot.init import boot_loader
from ephemeroot.machine import python_modules

APPLY, REBOOT = "ephemeroot apply", "reboot"
_FILE = "/etc/ephemeroot/ephemeroot.toml"


def of(survey: Survey, layout: Layout) -> list[Step]:
    """The steps, in the order in which they must be taken, as far as the first reboot. After it the
    machine is another one: see ``goes_on``.
    """
    found = [
        _modules(survey, layout),
        _generator(survey),
        _parts(survey),
        *layout.prepare,
        *_boot_loader(survey),
        _configuration(),
        _module(survey),
        *layout.finish,
        Step("Check the configuration, and simulate a boot:",
             ("ephemeroot check", "ephemeroot rehearse")),
        Step("Apply it, and boot the first ephemeral root:", (APPLY, REBOOT)),
    ]  # fmt: skip
    steps = [step for step in found if step is not None]
    for number, step in enumerate(steps[:-1], 1):
        if REBOOT in step.commands:
            return steps[:number]  # what comes then is seen in the boot after it
    return steps


def goes_on(steps: Sequence[Step]) -> bool:
    """Whether ``init`` has more to say after the reboot that these *steps* end with."""
    return APPLY not in steps[-1].commands


def _boot_loader(survey: Survey) -> list[Step]:
    """For who was interrupted after /boot had moved: the boot loader must follow."""
    return [
        Step(f"The boot loader still starts something else ({found.text}):", found.commands)
        for found in boot_loader.findings(survey.machine)
        if found.commands
    ]


def _generator(survey: Survey) -> Step | None:
    if survey.generator is not None:
        return None
    wanted = installed.recommended()
    made = (
        f"{survey.unsupported} does not support it"
        if survey.unsupported
        else f"this machine lacks {' and '.join(installed.names())}"
    )
    title = f"An initramfs made by {wanted.NAME} ({made}):"
    return Step(title, (wanted.installation(survey.has),))


def _parts(survey: Survey) -> Step | None:
    """What the images need of other packages to mount the root."""
    generator = survey.generator or installed.recommended()
    found = generator.missing(survey.machine.root, {survey.type}, None)
    if not found:
        return None
    commands = tuple(one.command for one in found)
    return Step(f"What {generator.NAME} needs to mount a root on {survey.type}:", commands)


def _modules(survey: Survey, layout: Layout) -> Step | None:
    """What the wiper's own Python modules come with, where this interpreter lacks them."""
    wiper = plugins.find(layout.wiper).wiper
    missing = [m for m in python_modules.of_wiper(wiper) if python_modules.is_missing(m)]
    if not missing:
        return None
    root = survey.machine.root
    return Step(
        f"The Python module that the wiper {layout.wiper} uses:",
        tuple(python_modules.command(name, root) for name in missing),
    )


def _configuration() -> Step:
    return Step(
        "Install this configuration:",
        ("mkdir -p /etc/ephemeroot", f"ephemeroot init > {_FILE}", f'"${{EDITOR:-vi}}" {_FILE}'),
    )


def _module(survey: Survey) -> Step | None:
    generator = survey.generator or installed.recommended()
    install = () if survey.has_module else (f"ephemeroot setup {generator.NAME}",)
    commands = (*install, *generator.enabling(Path(survey.machine.root)))
    return Step(f"The module for {generator.NAME}:", commands) if commands else None
