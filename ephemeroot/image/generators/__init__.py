"""The initramfs generators that this program works with, one folder each."""
