"""Serving: search with a published bundle."""
