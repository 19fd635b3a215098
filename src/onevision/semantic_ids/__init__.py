"""semantic_ids."""
