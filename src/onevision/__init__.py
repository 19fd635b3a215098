"""OneVision: generative visual product search."""

__version__ = "0.1.0"
