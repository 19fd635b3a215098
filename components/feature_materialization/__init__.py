"""Component of the stage `materialize-features`."""
