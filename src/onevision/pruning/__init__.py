"""Pruning calibration: how few image tokens the generator needs, measured on held-out days."""
