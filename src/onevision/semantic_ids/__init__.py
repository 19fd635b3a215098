"""Semantic IDs of items: voting over views, buckets, the prefix trie, and the catalogue that reads them back."""
