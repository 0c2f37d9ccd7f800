"""What a configuration must not ask for, and what an administrator may have forgotten."""
