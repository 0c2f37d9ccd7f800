"""Copying live data into a store while the machine runs."""
