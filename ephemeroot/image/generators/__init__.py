"""The initramfs generators that this program works with, one folder each.

`contract` is what the program asks of a generator; `installed` finds the generators. Nothing
outside of a generator's folder asks which one it is.
"""
