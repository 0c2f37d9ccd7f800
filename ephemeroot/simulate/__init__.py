"""A boot without booting: the real stages on a throw-away root, with the stores read-only."""
