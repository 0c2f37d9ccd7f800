"""dracut: its images, the hooks of its own init, and what an image of it needs."""
