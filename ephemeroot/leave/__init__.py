"""Returning to a persistent root."""
