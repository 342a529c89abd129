"""Encoders of sounds of the transformers library."""
