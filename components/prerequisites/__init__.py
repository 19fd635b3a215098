"""Component of the stage `open-champion`."""
