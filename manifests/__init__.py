"""What a cluster needs, and the checks of it."""
