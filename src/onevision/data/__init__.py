"""Snapshots of a shop: the contract, readers and writers, image storage, and where snapshots come from."""
