"""Simulated boots: the real stages on a temporary root, with the stores read-only."""
