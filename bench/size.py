"""How much each wiper and feature adds to an image, compressed.

Each is packed as for dracut with systemd and compressed as a tar archive with zstd -15. The
interpreter with its libraries is counted separately: the second column is the size that the program
adds to an image that already has Python. `--json FILE` writes the figures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/support"))

from ephemeroot.hooks.operation import Operation
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.plan import Plan
from ephemeroot.image import assembly
from ephemeroot.image.broken import Broken
from ephemeroot.image.generators.dracut.target import DracutTarget
from ephemeroot.image.tree import Tree
from ephemeroot.wipers.overlay import Overlay
from ephemeroot.wipers.zfs import Zfs
from image_plans import plan, volume, wipe

LEVEL = 15
# Every initramfs has these.
ANYWAY = ("libc.so.6", "libm.so.6", "ld-linux*")


def plans() -> dict[str, tuple[Plan, str]]:
    """The packed plans, with the init for which each is packed."""
    tmpfs = Wipe(target="/", wiper="tmpfs", attribute="ephemeroot.wipers.tmpfs:Tmpfs", settings={})
    overlay = Wipe(
        target="/", wiper="overlay", attribute="ephemeroot.wipers.overlay:Overlay",
        settings={option.name: option.default for option in Overlay.OPTIONS},
    )  # fmt: skip
    zfs = Wipe(
        target="/", wiper="zfs", attribute="ephemeroot.wipers.zfs:Zfs",
        settings={option.name: option.default for option in Zfs.OPTIONS},
    )  # fmt: skip
    return {
        "btrfs": (plan(), "systemd"),
        "tmpfs": (plan(tmpfs), "systemd"),
        "overlay": (plan(overlay), "systemd"),
        "zfs": (plan(zfs), "systemd"),
        "btrfs, store on ext4 (fsck)": (with_store("ext4"), "systemd"),
        "btrfs, init without systemd (pyudev)": (plan(), "dracut"),
        "btrfs, store on NFS (pyroute2)": (with_store("nfs4"), "systemd"),
    }


def with_store(kind: str) -> Plan:
    made = plan(wipe())
    options = ["addr=10.9.0.1"] if kind == "nfs4" else []
    device = "10.9.0.1:/srv" if kind == "nfs4" else "UUID=1"
    first: Operation = volume(type=kind, device=device, options=options)
    made.wipe[:1] = [first]
    return made


def compressed(top: Path, names: list[Path] | None = None) -> int:
    """Bytes of the tree, or of the files *names* in it, as a compressed archive."""
    left_out = [f"--exclude={name}" for name in ANYWAY]
    chosen = ["."] if names is None else [str(name.relative_to(top)) for name in names]
    tar = subprocess.run(
        ["tar", "-c", *left_out, "-C", top, "--", *chosen], check=True, capture_output=True
    )
    done = subprocess.run(
        ["zstd", "-q", f"-{LEVEL}", "-c"], input=tar.stdout, check=True, capture_output=True
    )
    return len(done.stdout)


def measured(folder: Path, made: Plan, init: str) -> tuple[int, int, int]:
    """Compressed bytes of everything, of everything except the interpreter, and of the bundle."""
    contents = assembly.put_together(folder, made.dump(), DracutTarget(init))
    if contents.reason:
        raise Broken(contents.reason)
    top = contents.tree.top
    own = [path for path in contents.tree.files() if not is_interpreters(contents.tree, path)]
    bundle = [top / "usr/lib/ephemeroot/bundle"]
    return compressed(top), compressed(top, own), compressed(top, bundle)


def is_interpreters(tree: Tree, path: Path) -> bool:
    """Whether the file is the interpreter, its library, or a library for them."""
    why = tree.why.get(tree.name(path), "")
    name = path.name
    of_python = name.startswith(("libexpat", "libz.", "libffi", "libpython"))
    return why.startswith(("interpreter", "standard library", "landmark")) or (
        why.startswith("library") and of_python
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="nothing: it takes some seconds")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    kept = {}
    print(f"{'bytes, tar with zstd -15':40} {'in all':>10} {'no Python':>10} {'bundle':>10}")
    with tempfile.TemporaryDirectory(prefix="ephemeroot-bench-") as name:
        for number, (title, (made, init)) in enumerate(plans().items()):
            try:
                sizes = measured(Path(name, str(number)), made, init)
            except Broken as error:
                print(f"{title:40} {error}")
                continue
            kept[title] = sizes
            print(f"{title:40} {sizes[0]:10} {sizes[1]:10} {sizes[2]:10}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
