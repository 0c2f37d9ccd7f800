"""Impermanence for every Linux machine whose initramfs is made by dracut or mkinitcpio."""

__version__ = "0.1.0"
