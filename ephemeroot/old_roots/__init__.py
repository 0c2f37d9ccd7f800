"""Looking into roots: what differs between two of them, and bringing something back."""
