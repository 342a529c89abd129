"""Frozen encoders: what one is, the families that make them, and the first of them, timm's."""
