"""dracut: its images, the hooks of its own init, and the requirements of an image."""
