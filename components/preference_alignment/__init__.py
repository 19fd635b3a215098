"""Component of the stage `align-preferences`."""
