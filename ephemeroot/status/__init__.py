"""What this boot did, what the next boot forgets, and what would stop it."""
