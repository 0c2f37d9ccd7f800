"""Thin wrappers of the kernel: each is one call and raises ``OSError`` with the path.

Every layer may import this package. It imports only modules of the standard library that load
quickly in an initramfs.
"""
