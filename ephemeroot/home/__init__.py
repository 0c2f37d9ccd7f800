"""Persistence that a user runs, without root: bindfs mounts and links below the home."""
