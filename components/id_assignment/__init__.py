"""Component of the stage `assign-ids`."""
