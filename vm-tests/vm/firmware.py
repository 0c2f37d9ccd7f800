"""Machines that start like real ones: firmware, a boot loader on a partitioned disk, its menu."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from vm.console import Typed
from vm.disk import Disk
from vm.qemu import Hardware
from vm.tools import Tools

_OVMF = "usr/share/OVMF"


@dataclass(frozen=True)
class FirmwareBoot:
    """A boot from the first of the `disks`. `variables` is the file in which the machine's UEFI
    keeps its variables from boot to boot (made if it is missing), None for a BIOS.

    `timeout` and `typed` are those of `vm.bench.Boot`.
    """

    disks: tuple[Disk, ...]
    variables: Path | None
    hardware: Hardware = field(default_factory=Hardware)
    timeout: float = 300.0
    typed: tuple[Typed, ...] = ()

    def start(self, tools: Tools) -> list[str]:
        """QEMU's arguments for the firmware. Without any it uses the BIOS."""
        if self.variables is None:
            return []
        folder = tools.tree / _OVMF
        if not self.variables.exists():
            shutil.copy(folder / "OVMF_VARS_4M.fd", self.variables)
        code, variables = (
            str(path).replace(",", ",,") for path in (folder / "OVMF_CODE_4M.fd", self.variables)
        )
        return [
            *("-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={code}"),
            *("-drive", f"if=pflash,format=raw,unit=1,file={variables}"),
        ]
