"""Validation: a snapshot against the contract; bad rows are set aside with the reason."""
