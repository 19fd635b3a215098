"""Component of the stage `calibrate-pruning`."""
