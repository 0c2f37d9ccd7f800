"""Into an ephemeral root and out of it again: what a machine is, and what has to be done."""
