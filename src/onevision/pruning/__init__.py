"""Pruning calibration: how few patches, image tokens and beams a search needs, measured on held-out days."""
