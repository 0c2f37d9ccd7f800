"""Run the named case of the named module; `test_zfs_pools.py` calls this."""

from __future__ import annotations

import importlib
import sys

from zfs_pools import pool


def main(module: str, case: str) -> None:
    """Run the case; a case that fails leaves no pool."""
    pool.make()
    try:
        getattr(importlib.import_module(f"zfs_pools.{module}"), f"case_{case}")()
    except BaseException:
        pool.remove()
        raise


if __name__ == "__main__":
    main(*sys.argv[1:])
