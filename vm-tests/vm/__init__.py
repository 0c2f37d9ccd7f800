"""Boots real Debian machines under QEMU and inspects them from inside.

The parts, from the lowest layer up: `command` and `sandbox` run programs, `cache` and `lock` share
expensive results and limit the number of machines, `debian` bootstraps, `tools` provides QEMU,
`image` and `system` are the trees that boot, `initramfs` and `disk` the files from which they boot,
`machine` is a running machine.
"""
