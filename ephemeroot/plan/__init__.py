"""From a checked configuration to the applied plan, and what the stores have of it."""
