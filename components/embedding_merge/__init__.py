"""Component of the stage `merge-embeddings`."""
