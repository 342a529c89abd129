"""Principal components of feature blocks."""
