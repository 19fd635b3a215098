"""Encodings that VRQ is compared with, beside residual k-means: RQ-VAE, FSQ, hierarchical k-means, OPQ."""
