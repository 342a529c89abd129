"""Encoders that are any torch module with a transform: passed in from Python, or of a library."""
