"""The base under a btrfs root: made, changed in a copy, replaced in one step, taken back."""
