"""Time the persistence stage with many declared directories.

Each is a bind of its own, as in a configuration that names every path of every user. `first` finds
none of them in the store and makes them, `later` binds what is there, and `again` is a second run
over what is bound already. Needs root. `--quick` makes a tenth.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/support"))

from boot import Boot, directory

COUNTS = (10, 100, 1000)
CLONE_NEWNS = 0x00020000
MS_REC_PRIVATE = 16384 | 1 << 18


def seconds(boot: Boot, count: int) -> float:
    started = time.perf_counter()
    boot.persist(*(directory(f"/declared{number}") for number in range(count)))
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    divisor = 10 if parser.parse_args().quick else 1
    libc = ctypes.CDLL(None)
    libc.unshare(CLONE_NEWNS)
    libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC_PRIVATE), None)
    print(f"{'binds':>6} {'first':>9} {'later':>9} {'again':>9}   milliseconds")
    for count in (c // divisor for c in COUNTS):
        with tempfile.TemporaryDirectory() as base:
            boot = Boot(Path(base), "tmpfs")
            try:
                first = seconds(boot, count)
                boot.next_boot()
                later = seconds(boot, count)
                # The stage has dropped its private mount of the store, as in a boot.
                boot.next_boot(wiped=False)
                again = seconds(boot, count)
            finally:
                boot.unmount()
        print(f"{count:6} {first * 1000:9.1f} {later * 1000:9.1f} {again * 1000:9.1f}")


if __name__ == "__main__":
    main()
