"""A configuration for this machine, proposed by what the machine is and has."""
