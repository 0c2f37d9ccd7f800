"""What the ZFS wiper does with real pools, case by case; test_zfs_pools.py runs them."""
