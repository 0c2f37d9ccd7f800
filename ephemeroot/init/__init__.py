"""``ephemeroot init``: propose a configuration for this machine."""
