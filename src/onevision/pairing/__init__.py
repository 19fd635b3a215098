"""Pairing: the split by time, the queries, and positive pairs of views mined from items and clicks."""
