"""The wipers: a module each backend, the contract they fulfil, and retention."""
