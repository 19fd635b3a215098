"""Collaborative image feature alignment: one embedding space for every view of a product."""
