"""A root that the wiper mounted is not the one in /etc/fstab.

Its line for ``/`` is for the installer's root, and systemd-remount-fs(8) would apply those
options (``errors=remount-ro``, ``subvol=…``) to the fresh root, and fail.
"""

from __future__ import annotations

import os

from ephemeroot.linux import paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.stage import Stage

_UNIT = "systemd/system/systemd-remount-fs.service.d"


def prevent(stage: Stage) -> None:
    """Have the real system's systemd leave the root alone; /run goes with it into that."""
    folder = f"{os.path.dirname(stage.run)}/{_UNIT}"
    os.makedirs(folder, 0o755, exist_ok=True)
    content = f"[Unit]\nConditionPathExists=!{stage.run}/wiped\n"
    paths.write_atomically(f"{folder}/ephemeroot.conf", content.encode())
