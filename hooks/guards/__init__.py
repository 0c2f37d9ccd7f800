"""Guards: each checks one condition before a stage changes anything, or refuses."""
