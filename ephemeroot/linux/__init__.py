"""The kernel, thinly: each wrapper is one call and raises ``OSError`` with the path.

Every layer may import this one; it imports nothing but the standard library, and of
that only what is cheap to import in an initramfs.
"""
