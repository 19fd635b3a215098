"""Component of the stage `pair`."""
