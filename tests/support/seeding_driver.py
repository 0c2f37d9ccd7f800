"""Seeds a store from a previous root, both of them directories, between two marks in a trace.

Its arguments: the folder with ``store``, ``previous``, ``run`` and ``target`` in it, the kind of
entry (``directory``, ``bind``) and the user (a number) who owns the entry. It prints JSON:
whether the root must be ``kept`` unchanged (``refused``) or get the mark ``.keep`` (``marked``),
the ``problems``, and the entries that were left out.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from ephemeroot.errors import Refused
from ephemeroot.hooks.cmdline import CommandLine
from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.operations.directories import Directory, Parent
from ephemeroot.hooks.operations.files import File
from ephemeroot.hooks.operations.handover import HandOver
from ephemeroot.hooks.plan import Plan
from ephemeroot.hooks.report import Report
from ephemeroot.hooks.stage import Stage

STORE = "/persistent"
BEGIN, END = "/ephemeroot-begins", "/ephemeroot-ends"


def operations(name: str, kind: str, user: int) -> list[Operation]:
    """The operations that declare the path *name* in the user's directory."""
    declared = {"directory": Directory, "bind": File}[kind]
    above: dict[str, Any] = {"user": user, "group": user} if user else {}
    return [
        Parent(path="/home", store=STORE, source="home", **above),
        declared(path=f"/home/{name}", store=STORE, source=f"home/{name}"),
    ]


def hand_over(folder: str, name: str, kind: str, user: int) -> dict[str, object]:
    """Seed ``store`` from ``previous``; see the module."""
    plan = Plan(wipe=[], persist=operations(name, kind, user), seed_limit=1 << 20)
    report = Report("wipe", None, "boot", boot=False)
    stage = Stage(
        plan, CommandLine(""), report, target=f"{folder}/target", run=f"{folder}/run",
        boot_id="boot",
    )  # fmt: skip
    stage.add_store(STORE, os.open(f"{folder}/store", os.O_PATH | os.O_DIRECTORY))
    hand = HandOver(stage, "/", {"/"}, marks_kept=True)
    os.access(BEGIN, os.F_OK)
    try:
        answer: dict[str, object] = {
            "refused": "", "marked": hand.run(f"{folder}/previous", "old", boots=True),
        }  # fmt: skip
    except (Refused, OSError) as error:
        answer = {"refused": str(error), "marked": False}
    os.access(END, os.F_OK)
    stage.close()
    answer["problems"] = [one["problem"] for one in report.content["problems"]]  # type: ignore[attr-defined]
    answer["left-out"] = [[one.whole, [n for n, _ in one.files]] for one in hand.omissions]
    return answer


def main() -> None:
    """See the module."""
    folder, kind, user = sys.argv[1:]
    # Once before the mark, so that all modules are imported by then.
    hand_over(f"{folder}/before", "mine", kind, int(user))
    sys.stdout.write(json.dumps(hand_over(folder, "mine", kind, int(user))))


if __name__ == "__main__":
    main()
