"""Component of the stage `validate`."""
