"""The compiled plan, the applied plan, and their records in the stores."""
