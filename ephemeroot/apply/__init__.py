"""Making the next boot follow the configuration: checks, steps, the boot loader."""
