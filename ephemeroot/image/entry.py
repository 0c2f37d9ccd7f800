"""What ``boot`` runs in the initramfs, and the only file that is run by its path.

    boot.pyc wipe|persist …     the stage, see ephemeroot.hooks
    boot.pyc verify             load everything that was packed, and the plan; say so

The byte-compiled code lies beside this file. ``-m`` would find nothing under ``-I -S``.
"""

from __future__ import annotations

import sys

FOLDER = __file__.rpartition("/")[0]


def verify() -> int:
    """Import every packed module, load the plan and its wipers, and print a positive word.

    A word, not an exit status: a program that never ran has none of either.
    """
    with open(f"{FOLDER}/exercise", encoding="utf-8") as lines:
        calls = lines.read().split()
    with open(f"{FOLDER}/modules", encoding="utf-8") as lines:
        names = lines.read().split()
    if "pyudev" in names:
        from ephemeroot.linux import udev

        udev.load()  # it cannot be imported in any other way here
    # First: some libraries can only be imported by whoever knows where their own ones are.
    for call in calls:
        module, _, function = call.partition(":")
        __import__(module)
        getattr(sys.modules[module], function)()
    for name in names:
        __import__(name)
    from ephemeroot.hooks import plan as plans

    plan = plans.load(f"{FOLDER}/plan.json")
    for wipe in plan.wipes():
        wipe.load()
    plan.dump()
    sys.stdout.write(f"{POSITIVE} {len(names)} {plan.generation}\n")
    return 0


POSITIVE = "ephemeroot-verified"
BUG = 70
"""As in ephemeroot.hooks.__main__, which cannot be asked when it cannot be imported."""


def main(arguments: list[str]) -> int:
    """Run a stage, or ``verify``."""
    sys.path.insert(0, FOLDER)
    if arguments == ["verify"]:
        return verify()
    try:
        from ephemeroot.hooks.__main__ import main as stage
    except Exception:  # noqa: BLE001  # half a closure: the policy in the image decides
        sys.excepthook(*sys.exc_info())
        return BUG
    return stage(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
