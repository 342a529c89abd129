"""Frozen timm vision transformers."""
