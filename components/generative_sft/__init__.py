"""Component of the stage `sft`."""
