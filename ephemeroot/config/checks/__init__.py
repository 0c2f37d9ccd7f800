"""Checks of a configuration: errors, and warnings about probable omissions."""
