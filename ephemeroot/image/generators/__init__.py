"""The supported initramfs generators, one folder each.

`contract` is the interface of a generator; `installed` finds the generators. Code outside of a
generator's folder does not depend on one of them.
"""
