"""The drawings in docs/, made from the tables below. `make docs` writes them; a test compares."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drawing import LINE, PADDING, Drawing, high

# The steps of a boot by program, with each generator and init. A single text applies to all three.
GENERATORS = (
    "both, with systemd", "dracut, its own init", "mkinitcpio, its own init",
)  # fmt: skip
WIPE_UNIT = "`ephemeroot-wipe.service`\nbefore `sysroot.mount`"
PERSIST_UNIT = "`ephemeroot-persist.service`\nbefore `initrd-root-fs.target`"
WIPE = (
    "mounts the volumes privately at `/run/ephemeroot/volumes`, proves that the wipe is safe, "
    "makes the new root, seeds newly declared paths, and gives the new root the name of the "
    "previous one"
)
PERSIST = (
    "verifies the root, attaches the volumes under it, mounts the declared directories and files, "
    "parents first, and copies `/etc/machine-id`"
)
BOOT: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Devices", "plain", (
        "systemd and udev: disks, LUKS, LVM, MD",
        "the loop `initqueue`, which waits for the stores' devices too",
        "the hooks `udev`, `encrypt`, `lvm2`",
    )),
    ("Resume", "plain", (
        "`systemd-hibernate-resume`", "hook `pre-mount` 10", "hook `resume`",
    )),
    ("Wipe", "red", (WIPE_UNIT, "hook `pre-mount` 50", "`run_hook`\nafter `resume`")),
    ("", "red", (
        WIPE,
    )),
    ("Root", "blue", (
        "`sysroot.mount`\nmounts `/sysroot`",
        "hook `mount`\nmounts `/sysroot`", "`mount_handler`\nmounts `/new_root`",
    )),
    ("", "blue", (
        "a root in memory or an overlay is mounted by the wipe instead",
    )),
    ("Persistence", "green", (
        PERSIST_UNIT, "hook `pre-pivot` 30", "`run_latehook`",
    )),
    ("", "green", (
        PERSIST,
    )),
    ("fstab", "plain", (
        "`initrd-parse-etc`\nmounts `/usr`",
        "hook `pre-pivot`\nmounts `/usr`", "hook `usr`\nmounts `/usr`",
    )),
    ("switch_root", "plain", (
        "the real system starts, mounts the rest of `/etc/fstab`, and marks the root as booted",
    )),
)  # fmt: skip


def boot() -> Drawing:
    """Who mounts what, and when, with each initramfs."""
    drawing = Drawing("The order of a boot with each initramfs", 960)
    left, column, gap = 118, 272, 7
    for number, name in enumerate(GENERATORS):
        drawing.text(left + number * (column + gap) + PADDING, 26, name, "title")
    y = 38.0
    for moment, kind, cells in BOOT:
        width = column if len(cells) > 1 else 3 * column + 2 * gap
        height = max(high(cell, width) for cell in cells)
        if moment:
            drawing.text(8, y + PADDING + 14, moment, "title")
        for number, cell in enumerate(cells):
            drawing.card(left + number * (column + gap), y, width, cell, kind, height)
        y += height + (gap if moment and len(cells) > 1 else 12)
    return drawing


# The subvolumes of a disk: before a boot, at the moment of the exchange, and after it.
ROTATION: tuple[tuple[str, str, tuple[tuple[str, str, str], ...]], ...] = (
    ("before the boot", "", (
        ("root", "blue", "the root of the last boot"),
        ("root-base", "plain", "packages are installed here"),
        ("persistent", "green", "the store"),
        ("old_roots/", "none", ""),
        ("  …-28T07-30-00Z", "plain", "an old root"),
        ("  …-29T07-30-00Z", "plain", "an old root"),
    )),
    ("the wipe", "one atomic exchange of two names", (
        ("root", "red", "the new root: a snapshot of root-base"),
        ("(a temporary name)", "blue", "the previous root, complete"),
        ("root-base", "plain", "unchanged"),
        ("persistent", "green", "newly declared paths are copied here"),
        ("old_roots/", "none", ""),
        ("  …-28T07-30-00Z", "plain", "an old root"),
        ("  …-29T07-30-00Z", "plain", "an old root"),
    )),
    ("after the wipe", "", (
        ("root", "red", "mounted at /, as clean as the base"),
        ("root-base", "plain", "unchanged"),
        ("persistent", "green", "mounted under the new root"),
        ("old_roots/", "none", ""),
        ("  …-28T07-30-00Z", "plain", "deleted when it is due"),
        ("  …-29T07-30-00Z", "plain", "an old root"),
        ("  …-30T07-30-00Z", "blue", "the previous root"),
    )),
)  # fmt: skip


def rotation() -> Drawing:
    """The disk before and after a rotation."""
    drawing = Drawing("The subvolumes of a disk before and after a rotation", 960)
    width, gap = 300, 20
    for number, (title, note, rows) in enumerate(ROTATION):
        x = 10.0 + number * (width + gap)
        drawing.text(x, 24, title, "title")
        drawing.text(x, 44, note, "muted")
        y = 56.0
        for name, kind, words in rows:
            inset = 22 if name.startswith(" ") else 0
            text = name if name.startswith("(") else f"`{name.strip()}`"
            text += f"\n{words}" if words else ""
            y = drawing.card(x + inset, y, width - inset, text, kind) + 8
        if number:
            drawing.arrow((x - gap + 2, 84), (x - 2, 84))
    return drawing


# The source of each path on a running example machine: path, method, source, kind.
BINDS: tuple[tuple[str, str, str, str], ...] = (
    ("/usr, /bin, /lib …", "snapshot of the base", "packages", "red"),
    ("/etc", "snapshot of the base", "changes last until the next boot", "red"),
    ("/etc/machine-id", "copy", "/persistent/etc/machine-id", "green"),
    ("/etc/passwd", "copy, in both directions", "/persistent/etc/passwd", "green"),
    ("/var/log", "bind mount", "/persistent/var/log", "green"),
    ("/srv/photos", "bind mount", "/persistent/srv/photos", "green"),
    ("/home", "a volume of its own in fstab", "subvolume home", "blue"),
    ("/tmp, /var/cache, the rest", "new at every boot", "previous content: in old_roots", "red"),
)  # fmt: skip


def binds() -> Drawing:
    """Stores and binds of an example machine."""
    drawing = Drawing("Stores and binds of an example machine", 960)
    heads = (("path of the running system", 10), ("how it gets there", 300), ("source", 610))
    for words, x in heads:
        drawing.text(x, 24, words, "title")
    y = 36.0
    for path, how, source, kind in BINDS:
        code = "`" if source.startswith("/") else ""
        height = high("x", 240)
        drawing.card(10, y, 240, f"`{path}`", kind)
        drawing.text(300, y + 25, how)
        drawing.card(610, y, 340, f"{code}{source}{code}", kind)
        drawing.arrow((604, y + height / 2), (560, y + height / 2))
        drawing.arrow((292, y + height / 2), (256, y + height / 2))
        y += height + 8
    y += 8
    for x, kind, words in (
        (10, "red", "new at every boot"),
        (330, "green", "persists in the store"),
        (650, "blue", "a volume that is never wiped"),
    ):
        drawing.box(x, y, 16, 16, kind)
        drawing.text(x + 24, y + 13, words, "muted")
    return drawing


# The verb for each task.
VERBS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("Set it up", "blue", (
        ("init", "propose a configuration"),
        ("check", "show all mistakes"),
        ("rehearse", "simulate the next boot"),
        ("apply", "write the plan, rebuild the images"),
    )),
    ("Inspect it", "plain", (
        ("plan", "the steps of each boot"),
        ("status", "the state of this boot"),
        ("diff", "files that the next boot deletes"),
    )),
    ("Keep a path", "green", (
        ("adopt PATH", "copy it into the store and declare it"),
    )),
    ("Restore a file", "green", (
        ("roots list", "the old roots"),
        ("roots diff NAME", "compare with this root"),
        ("roots restore PATH --from NAME", "restore it"),
    )),
    ("Upgrade packages", "amber", (
        ("base run -- COMMAND", "for every later boot"),
        ("base rollback", "return to the previous base"),
    )),
    ("Change the next boot", "amber", (
        ("next-boot keep", "do not wipe"),
        ("next-boot root NAME", "boot an old root"),
    )),
    ("Return to a persistent root", "red", (
        ("leave", "keep all persistent files"),
    )),
    ("Without root", "plain", (
        ("home apply", "a user's own persistent paths"),
    )),
)  # fmt: skip


def verbs() -> Drawing:
    """The verb for each task."""
    drawing = Drawing("Which command is for which task", 960)
    width, gap = 460, 20
    edges = [14.0, 14.0]
    for title, kind, rows in VERBS:
        side = edges.index(min(edges))
        x, y = 10.0 + side * (width + gap), edges[side]
        drawing.box(x, y, width, 34 + len(rows) * (LINE + 6), kind)
        drawing.text(x + PADDING, y + 22, title, "title")
        for number, (command, words) in enumerate(rows):
            line = y + 46 + number * (LINE + 6)
            drawing.text(x + PADDING, line, f"`{command}`")
            drawing.text(x + max(182, 7.9 * len(command) + 24), line, words, "muted")
        edges[side] = y + 34 + len(rows) * (LINE + 6) + 12
    return drawing


# Measured by `bench/stages.py --json`.
MEASURED = Path(__file__).resolve().parent.parent.parent / "docs/performance.json"
KINDS = (
    ("stages", "blue", "both stages of a boot"),
    ("recipe", "red", "the shell recipe and `mount --bind`"),
    ("floor", "green", "C programs, and two starts of Python"),
)


def performance() -> Drawing:
    """The time of a boot's stages, compared with shell scripts and C programs."""
    drawing = Drawing("Processor time of both stages of a boot", 960)
    left, scale, y = 284.0, 150.0, 30.0
    for number, (_, kind, words) in enumerate(KINDS):
        x = 10 + number * 320
        drawing.box(x, y - 14, 16, 16, kind)
        drawing.text(x + 24, y, words)
    y += 26
    cases = json.loads(MEASURED.read_text(encoding="utf-8"))["stages"]
    for case in cases:
        drawing.text(10, y + 18, _case(case), "title")
        for kind, colour, _ in KINDS:
            spent = milliseconds(case, kind)
            width = max(2.0, scale * math.log10(max(spent, 1.0)))
            drawing.box(left, y, round(width), 18, colour)
            drawing.text(left + round(width) + 8, y + 14, f"{spent:,.0f} ms", "muted")
            y += 22
        y += 12
    drawing.text(left, y + 12, "The lengths are logarithmic.", "muted")
    return drawing


def milliseconds(case: dict[str, Any], kind: str) -> float:
    """Both parts, on the processor; to the C programs two starts of the interpreter are added."""
    spent = sum(processor for _, processor in case[kind])
    if kind == "floor":
        spent += 2 * case["start"][0][1]
    return float(spent)


def _case(case: dict[str, Any]) -> str:
    if not case["old_roots"]:
        return f"{case['directories']:,} directories"
    nested = f" x {case['nested']} nested" if case["nested"] else ""
    roots = "old root" if case["old_roots"] == 1 else "old roots"
    return f"{case['directories']} directories, {case['old_roots']:,} {roots}{nested}"


# Measured by `bench/growth.py --json`.
GROWN = MEASURED.with_name("growth.json")
CURVES = ("red", "blue", "green")


def growth() -> Drawing:
    """The space of old roots over the days, and the cost of a wipe in their presence."""
    drawing = Drawing("Space of old roots over the days, and processor time of a wipe", 960)
    grown = json.loads(GROWN.read_text(encoding="utf-8"))
    days = len(grown["space"][0]["megabytes"])
    left = Axes(drawing, 62, days, 500)
    left.draw(f"space in MiB, {grown['megabytes_a_day']} MiB written each day", (20, 40, 60), "day",
              (100, 200, 300, 400, 500))  # fmt: skip
    for case, kind in zip(grown["space"], CURVES, strict=True):
        curve = [(day + 1.0, used) for day, used in enumerate(case["megabytes"])]
        left.curve([(0.0, 0.0), *curve], kind, _kept(case["keep_days"]))
    right = Axes(drawing, 560, 300, 25)
    right.draw("processor time of a wipe in ms", (100, 200, 300), "old roots", (5, 10, 15, 20, 25))
    right.curve([(number, spent) for number, spent in grown["wipe"]], "blue")
    return drawing


def _kept(days: int | None) -> str:
    return "never wiped" if days is None else f"keep-days = {days}"


@dataclass
class Axes:
    """A diagram in *drawing* whose origin is at the pixel *left*, with the largest values shown."""

    drawing: Drawing
    left: float
    width: float
    height: float

    # Pixels of each diagram: below the title, half as wide as a picture.
    TOP, BOTTOM, ACROSS = 62.0, 302.0, 380.0

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The pixel of a value."""
        down = self.BOTTOM - y / self.height * (self.BOTTOM - self.TOP)
        return self.left + x / self.width * self.ACROSS, down

    def draw(self, title: str, across: tuple[int, ...], unit: str, upward: tuple[int, ...]) -> None:
        """Draw the axes with their values; *unit* is that of the horizontal axis."""
        self.drawing.text(self.left - 50, 26, title, "title")
        for value in upward:
            x, y = self.at(0, value)
            self.drawing.line([(x, y), (x + self.ACROSS, y)], "axis")
            self.drawing.text(x - 9 * len(str(value)) - 9, y + 5, str(value), "muted")
        for value in across:
            x, y = self.at(value, 0)
            self.drawing.line([(x, y), (x, y + 5)], "axis")
            self.drawing.text(x - 4.5 * len(str(value)), y + 24, str(value), "muted")
        self.drawing.text(self.left, self.BOTTOM + 24, unit, "muted")
        self.drawing.line([self.at(0, self.height), self.at(0, 0), self.at(self.width, 0)], "axis")

    def curve(self, values: list[tuple[float, float]], kind: str, name: str = "") -> None:
        """A line through *values* with its name at the end of it."""
        self.drawing.line([self.at(x, y) for x, y in values], kind)
        if name:
            x, y = self.at(*values[-1])
            # Below a flat line, to the left of a steep one.
            steep = values[-1][1] > values[-2][1]
            self.drawing.text(x - 8 * len(name) - 45 * steep, y + 8 if steep else y + 20, name)


ALL = {
    "boot-order.svg": boot, "growth.svg": growth, "performance.svg": performance,
    "rotation.svg": rotation, "stores-and-binds.svg": binds, "verbs.svg": verbs,
}  # fmt: skip


def write(target: Path) -> None:
    """Write all drawings into the directory *target*."""
    for name, draw in ALL.items():
        (target / name).write_text(draw().svg(), encoding="utf-8")
