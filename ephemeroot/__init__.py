"""Ephemeral root filesystems for Linux machines with an initramfs by dracut or mkinitcpio."""

__version__ = "0.1.0"
