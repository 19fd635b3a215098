"""Component of the stage `assign-shard`."""
