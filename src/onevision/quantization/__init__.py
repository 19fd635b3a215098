"""Semantic codes: residual k-means, optimised product quantisation, and VRQ, which learns to agree across views."""
