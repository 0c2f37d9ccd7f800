"""The code of the initramfs: a module for each stage, and the plan."""
