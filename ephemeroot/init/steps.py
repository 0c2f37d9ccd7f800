"""The steps until a proposed configuration takes effect, with the exact commands."""

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
    """The steps in their order, up to the first reboot. ``init`` finds the later ones after that
    reboot, see ``continues_after_reboot``.
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
            return steps[:number]
    return steps


def continues_after_reboot(steps: Sequence[Step]) -> bool:
    """Whether ``init`` has further steps after the reboot with which these *steps* end."""
    return APPLY not in steps[-1].commands


def _boot_loader(survey: Survey) -> list[Step]:
    """Repair of the boot loader, if a conversion was interrupted after /boot had moved."""
    return [
        Step(f"Install the boot loader for the new /boot ({found.text}):", found.commands)
        for found in boot_loader.findings(survey.machine)
        if found.commands
    ]


def _generator(survey: Survey) -> Step | None:
    if survey.generator is not None:
        return None
    wanted = installed.recommended()
    made = (
        f"{survey.unsupported} is not supported"
        if survey.unsupported
        else "no supported initramfs generator is installed"
    )
    title = f"Install {wanted.NAME} to make the initramfs ({made}):"
    return Step(title, (wanted.installation(survey.has),))


def _parts(survey: Survey) -> Step | None:
    """Packages that the images need to mount the root."""
    generator = survey.generator or installed.recommended()
    found = generator.missing(survey.machine.root, {survey.type}, None)
    if not found:
        return None
    commands = tuple(one.command for one in found)
    return Step(
        f"Install the packages with which {generator.NAME} mounts a root on {survey.type}:",
        commands,
    )


def _modules(survey: Survey, layout: Layout) -> Step | None:
    """The packages of Python modules that the wiper needs and this interpreter lacks."""
    wiper = plugins.find(layout.wiper).wiper
    missing = [m for m in python_modules.of_wiper(wiper) if python_modules.is_missing(m)]
    if not missing:
        return None
    root = survey.machine.root
    return Step(
        f"Install the Python module that the wiper {layout.wiper} uses:",
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
    return Step(f"Set up Ephemeroot's module for {generator.NAME}:", commands) if commands else None
