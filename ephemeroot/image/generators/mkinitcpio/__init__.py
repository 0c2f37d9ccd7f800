"""mkinitcpio: its presets, its HOOKS, and what an image of it needs."""
