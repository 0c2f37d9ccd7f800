"""Making one tree like another while programs use both."""
