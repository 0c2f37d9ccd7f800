"""What a store has of declared paths, and its records: seeding, copying back, requests."""
