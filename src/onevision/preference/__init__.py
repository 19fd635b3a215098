"""Preference alignment: what shoppers chose over what they saw, and over what the model would have written."""
