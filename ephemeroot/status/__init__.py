"""``ephemeroot status``: the results of this boot, files that the next boot forgets, obstacles."""
