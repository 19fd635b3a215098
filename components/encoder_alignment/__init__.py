"""Component of the stage `align`."""
