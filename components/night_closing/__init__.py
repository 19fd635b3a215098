"""Component `close-night`."""
