"""mkinitcpio: its presets, its HOOKS, and the requirements of an image."""
