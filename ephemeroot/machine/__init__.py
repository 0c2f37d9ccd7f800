"""The facts of a machine, read from its files: mounts, users, labels, units, installed packages."""
