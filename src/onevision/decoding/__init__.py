"""Constrained decoding: beam search over the trie of semantic IDs, and ranked items from its beams."""
