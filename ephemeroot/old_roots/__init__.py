"""Looking into roots: the differences between two of them, and bringing something back."""
