"""The effects of the ZFS wiper on real pools, case by case; test_zfs_pools.py runs them."""
