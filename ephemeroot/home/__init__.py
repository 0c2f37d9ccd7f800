"""Persistence run by a user without root's privileges: bindfs mounts and links under the home."""
