"""Component of the stage `publish`."""
