"""Sizes that are powers of two."""

from __future__ import annotations


def power_of_two_within(most: float) -> int:
    """Return the largest power of two that is at most `most`, and at least 1."""
    return 1 << (max(1, int(most)).bit_length() - 1)
