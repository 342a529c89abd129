"""Real images and real weights for who has none at hand, from the Python package index."""
