"""An image that dracut is building: its init, and the hooks for dracut's own init."""

from __future__ import annotations

from ephemeroot.image import data
from ephemeroot.image.broken import Broken
from ephemeroot.image.contents import DEVICES, Contents, Script
from ephemeroot.image.generators.contract import NONE, Target
from ephemeroot.image.units import SYSTEMD, Loop
from ephemeroot.wipers.contract import Wiper

DRACUT = "dracut"
"""dracut's own init, a shell script: the stages are hooks that it sources."""

INITQUEUE = Loop("dracut-initqueue.service", 180)
"""dracut's loop; the seconds are those of rd.retry= (dracut.cmdline(7))."""

ENDLESS = 86400
"""Seconds for a volume without a timeout."""

Hook = tuple[str, str, str]
"""Type, priority and file name of a hook."""

# The wipe runs after resume, which is before `pre-mount`; a wiper that mounts the root is the first
# of the `mount` hooks. Persistence runs before 50-mount-usr, which reads the root's /etc/fstab.
_PERSIST: Hook = ("pre-pivot", "30", "ephemeroot-persist.sh")
_WIPE: Hook = ("pre-mount", "50", "ephemeroot-wipe.sh")
_MOUNT: Hook = ("mount", "00", "ephemeroot-wipe.sh")
_NO_DEVICE: Hook = ("cmdline", "96", "ephemeroot-root.sh")
_INERT: Hook = ("pre-mount", "50", "ephemeroot-inert.sh")

# Keeps dracut's loop, which sets up devices, running until the devices of the volumes exist.
_WAIT: Hook = ("initqueue/finished", "50", "ephemeroot-wait.sh")

# Print a message if dracut gives up before the wipe; the second is for a boot without a shell.
_MISSING: tuple[Hook, ...] = tuple(
    (kind, "05", "ephemeroot-missing.sh") for kind in ("emergency", "shutdown-emergency")
)


class DracutTarget(Target):
    """``init`` is ``SYSTEMD``, ``DRACUT`` or ``NONE``."""

    def __init__(self, init: str = SYSTEMD, *, initqueue: bool = False) -> None:
        self.init = init
        self.loop = INITQUEUE if initqueue or init == DRACUT else None

    @property
    def systemd_advice(self) -> str:
        """The dracut module that adds systemd."""
        return "build it with dracut's module dracut-systemd"

    def require(self) -> None:
        """Raise ``Broken`` without an emergency shell: a stage that fails closed would hang."""
        if self.init == NONE:
            raise Broken(
                "this initramfs has systemd without an emergency shell",
                "build it with dracut's module dracut-systemd, or without systemd",
            )

    def add(self, contents: Contents, root: Wiper | None) -> None:
        """The list of devices for the loop, and the stages' hooks for dracut's own init."""
        if self.loop and contents.waits:
            lines = [f"{seconds or ENDLESS} {path}\n" for path, seconds in contents.waits.items()]
            contents.tree.write(DEVICES, "".join(lines), why="volumes")
        if self.init == DRACUT:
            contents.scripts += [_script(hook) for hook in _hooks(root)]

    def add_inert(self, contents: Contents) -> None:
        """Add the hook that prints why the image is inert."""
        if self.init == DRACUT:
            contents.scripts.append(_script(_INERT))

    def lines(self, contents: Contents) -> list[str]:
        """The lines, with the loop's hooks: ``hook TYPE PRIORITY FILE``."""
        loop = [_WAIT] if self.loop and contents.waits else []
        loop += _MISSING if self.loop and contents.armed else ()
        scripts = [*(_script(hook) for hook in loop), *contents.scripts]
        return contents.lines() + [script.line for script in scripts]


def _hooks(root: Wiper | None) -> list[Hook]:
    """The hooks of an armed image; *root* is the wiper of the root, if there is one."""
    if root is None or not root.MOUNTS_ROOT:
        return [_WIPE, _PERSIST]
    return [*([] if root.ON_DEVICE else [_NO_DEVICE]), _MOUNT, _PERSIST]


def _script(hook: Hook) -> Script:
    """*hook*, a file of this installation. ``end`` is the end of its name in an image, whose hook
    directory depends on dracut's version.
    """
    kind, priority, name = hook
    file = data.folder("dracut") / "50ephemeroot" / name
    return Script(
        line=f"hook\t{kind}\t{priority}\t{file}",
        end=f"/{kind}/{priority}-{name}",
        title=f"hook {kind} {priority}: {name}",
    )
