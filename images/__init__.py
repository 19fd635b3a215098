"""The images: how they are built, and that they work."""
