"""Component of the stage `evaluate`."""
