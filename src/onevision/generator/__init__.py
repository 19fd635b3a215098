"""The generator: an encoder-decoder that reads photo, history and profile and writes a semantic ID."""
