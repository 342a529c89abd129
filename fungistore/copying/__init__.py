"""Copies of whole stores, or of some of their features, between directories and URLs."""
