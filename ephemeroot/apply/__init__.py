"""Applying a configuration: its checks and its steps."""
