"""Component of the stage `train-vrq`."""
