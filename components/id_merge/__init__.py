"""Component of the stage `merge-ids`."""
