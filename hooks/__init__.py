"""What runs in the initramfs: a module each stage, and the plan they follow."""
