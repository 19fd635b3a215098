"""Component of the stage `embed-shard`."""
