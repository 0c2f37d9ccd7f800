"""Making one tree like another, for data that programs use meanwhile."""
