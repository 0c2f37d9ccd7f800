"""Boots real Debian machines under QEMU and asks them, from inside, how it went.

The parts, from the ground up: `command` and `sandbox` run programs, `cache` and `lock` keep
expensive things and expensive machines apart, `debian` bootstraps, `tools` holds QEMU, `image` and
`system` are the trees that boot, `initramfs` and `disk` what they boot from, `machine` a running
one.
"""
