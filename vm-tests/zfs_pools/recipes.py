"""The proposals of `init` and the text of docs/zfs.md, command by command."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from ephemeroot.errors import Refused
from zfs_pools.pool import (
    HINT,
    KEY,
    NOW,
    POOL,
    TOP,
    complaint,
    content,
    destroy,
    exists,
    follow,
    mounted,
    names_of,
    only_in_proof,
    run,
    snapshot,
    start,
    value,
    wipe,
    write,
)

FSTAB = "LABEL=boot /boot ext4 defaults 0 2\n"
ENCRYPTED = ("-o", "encryption=on", "-o", "keyformat=raw", "-o", f"keylocation=file://{KEY}")


def install(root: str, *options: str) -> None:
    """A root as an installer leaves it: it is mounted at /, with everything else."""
    run("zfs", "create", "-u", *options, "-o", "mountpoint=/", root)
    with mounted(root) as top:
        (top / "etc/kernel").mkdir(parents=True)
        (top / "etc/fstab").write_text(FSTAB)
        (top / "etc/kernel/cmdline").write_text(f"root=zfs:{root.replace(' ', '+')} ro\n")
        (top / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (top / "etc/group").write_text("root:x:0:\n")
        (top / "lost").write_text("no")


def init(root: str) -> subprocess.CompletedProcess[str]:
    with mounted(root) as top:
        words = ("ephemeroot", "--root", str(top), "init", "--json")
        return subprocess.run(words, capture_output=True, text=True)


def follow_init(root: str) -> list[str]:
    """Run the proposed commands for datasets; those for files do not apply to this machine."""
    done = init(root)
    assert done.returncode == 0, done
    steps = json.loads(done.stdout)["steps"]
    commands = [c for step in steps for c in step["commands"] if c.startswith(("zfs", "test"))]
    for command in commands:
        run("sh", "-ec", command)
    return commands


def case_recipe_of_init_makes_roots_that_rotate() -> None:
    start()
    destroy_all = ("zfs", "destroy", "-R")
    run(*destroy_all, TOP)
    run("zfs", "create", "-o", "mountpoint=none", TOP)
    KEY.write_text("x" * 32)
    run("zfs", "create", *ENCRYPTED, "-o", "mountpoint=none", f"{POOL}/locked")
    for parent, store in ((TOP, POOL), (f"{POOL}/locked", f"{POOL}/locked")):
        root, base = f"{parent}/the root", f"{parent}/base"
        install(root)
        commands = follow_init(root)
        assert value(base, "encryptionroot") == value(root, "encryptionroot"), commands
        assert value(f"{store}/persistent", "encryptionroot") == value(root, "encryptionroot")
        outcome = wipe("rotate", root=root)
        assert outcome.problems == []
        write(root, "more", "x")
        wipe("rotate", root=root, now=NOW + 60)
        assert "more" not in _names(root)
        # The commands of the recipe do not prevent the first root from being deleted.
        old = f"{parent}/old-roots/{outcome.retired}"
        assert names_of("snapshot", old) == []
        destroy(old)
        done = subprocess.run(["zfs", "destroy", f"{base}@blank"], capture_output=True, text=True)
        assert done.returncode != 0, "it is held, or cloned"
        run("zfs", "release", "ephemeroot", f"{base}@blank")
        run(*destroy_all, f"{store}/persistent")


def _refused(root: str, *words: str) -> str:
    done = init(root)
    assert done.returncode == 1, done
    assert all(word in done.stdout for word in words), done
    said = json.loads(done.stdout)
    return f"{said['error']}{HINT}{said['hint']}"


def case_init_makes_no_plain_copy_of_an_encrypted_root() -> None:
    start()
    run("zfs", "destroy", "-R", TOP)
    run("zfs", "create", "-o", "mountpoint=none", TOP)
    if exists(f"{POOL}/locked"):
        run("zfs", "destroy", "-R", f"{POOL}/locked")
    KEY.write_text("x" * 32)
    root = f"{TOP}/debian"
    install(root, *ENCRYPTED)
    _refused(root, f"the root {root} is its own encryption root", "docs/zfs.md")
    # As the document says.
    run(
        "zfs", "create", *ENCRYPTED, "-o", "canmount=off", "-o", "mountpoint=none", f"{POOL}/locked"
    )
    run("zfs", "rename", "-u", root, f"{POOL}/locked/debian")
    run("zfs", "change-key", "-i", f"{POOL}/locked/debian")
    with mounted(f"{POOL}/locked/debian") as top:
        (top / "etc/kernel/cmdline").write_text(f"root=zfs:{POOL}/locked/debian ro\n")
    follow_init(f"{POOL}/locked/debian")
    wipe("rotate", root=f"{POOL}/locked/debian")
    plain = f"{POOL}/locked/plain"
    install(plain, "-o", "encryption=off")
    follow(
        _refused(plain, f"the root {plain} has no encryption", f"has the key of {POOL}/locked"),
        NAME=f"{TOP}/plain",
    )
    with mounted(f"{TOP}/plain") as top:
        (top / "etc/kernel/cmdline").write_text(f"root=zfs:{TOP}/plain ro\n")
    assert init(f"{TOP}/plain").returncode == 0
    run("zfs", "release", "ephemeroot", f"{POOL}/locked/base@blank")
    run("zfs", "destroy", "-R", f"{POOL}/locked")
    # A rollback of a root with its own key.
    install(root, *ENCRYPTED)
    snapshot(f"{root}@blank")
    write(root, "more", "x")
    wipe("rollback", root=root)
    assert "more" not in _names(root)


def _names(root: str) -> list[str]:
    with mounted(root) as top:
        return sorted(path.name for path in top.iterdir())


@only_in_proof
def case_rotated_root_is_sent_as_a_difference_to_its_base() -> None:
    """docs/zfs.md: as a difference to the snapshot of the base, for any root."""
    start()
    base, root, copies = f"{TOP}/base", f"{TOP}/the root", f"{TOP}/copies"
    run("zfs", "create", "-o", "mountpoint=none", copies)
    run("sh", "-ec", f"zfs send {base}@blank | zfs receive -u {copies}/base")
    for number in range(2):
        outcome = wipe("rotate", now=NOW + 60 * number)
        assert outcome.problems == []
        write(root, "work", str(number))
        own = f"{root}@ephemeroot-backup"
        snapshot(own)
        origin = f"origin={copies}/base@blank"
        command = f"zfs send -i {base}@blank '{own}' | zfs receive -u -o {origin} {copies}/{number}"
        run("sh", "-ec", command)
        assert content(f"{copies}/{number}") == {"release": "base", "work": str(number)}
        assert value(f"{copies}/{number}", "origin") == f"{copies}/base@blank"


@only_in_proof
def case_volume_with_its_own_key_is_loaded_and_rolled_back() -> None:
    """It is wiped and mounted in the initramfs, where only the root's key is loaded."""
    start()
    home = f"{POOL}/home"
    run("zfs", "create", *ENCRYPTED, "-o", "mountpoint=legacy", home)
    write(home, "file", "x")
    snapshot(f"{home}@blank")
    write(home, "lost", "x")
    run("zfs", "unload-key", home)
    moved = KEY.with_suffix(".moved")
    KEY.rename(moved)
    said = complaint(Refused, lambda: wipe("rollback", root=home, target="/home"))
    assert f"the key of {home}" in said, said
    assert f"file://{KEY}" in said, said
    assert "install_items" in said, said
    moved.rename(KEY)
    wipe("rollback", root=home, target="/home")
    assert content(home) == {"file": "x"}
    # The distribution's module loads the root's own key, or the boot reports that it is missing.
    run("zfs", "unload-key", home)
    assert "zfs load-key" in complaint(Refused, lambda: wipe("rollback", root=home))
    run("zfs", "destroy", "-r", home)


@only_in_proof
def case_root_that_was_received_raw_rolls_back_and_rotates() -> None:
    """`zfs send --raw` makes it its own encryption root, with its own key and properties."""
    start(at=f"{POOL}/locked")
    origin, root = f"{POOL}/locked/the root", f"{TOP}/raw"
    run("zfs", "set", "compression=gzip-3", origin)
    snapshot(f"{origin}@sent")
    run("zfs", "destroy", f"{origin}@blank")
    run("zfs", "rename", f"{origin}@sent", f"{origin}@blank")
    run("sh", "-ec", f"zfs send -w -p '{origin}@blank' | zfs receive -u {root}")
    assert value(root, "encryptionroot") == root
    said = complaint(Refused, lambda: wipe("rollback", root=root))
    assert f"the key of {root} is not loaded" in said, said
    run("zfs", "load-key", "-L", f"file://{KEY}", root)
    write(root, "lost", "x")
    wipe("rollback", root=root)
    assert content(root) == {"release": "base"}
    base: dict[str, Any] = {"base": f"{POOL}/locked/base", "old-roots": f"{POOL}/locked/old-roots"}
    said = complaint(Refused, lambda: wipe("rotate", root=root, **base))
    assert "'An encrypted root'" in said, said
    run("zfs", "rename", "-u", root, f"{POOL}/locked/raw")
    run("zfs", "change-key", "-i", f"{POOL}/locked/raw")
    outcome = wipe("rotate", root=f"{POOL}/locked/raw")
    assert outcome.problems == []
    assert value(f"{POOL}/locked/raw", "compression") == "gzip-3"
    assert content(f"{POOL}/locked/raw") == {"release": "base"}
