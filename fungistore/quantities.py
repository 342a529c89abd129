"""Amounts in words: bytes, seconds, and how many of what."""

from __future__ import annotations


def size(count: float) -> str:
    """Return a number of bytes with a decimal unit."""
    for unit, bytes_ in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= bytes_:
            return f"{count / bytes_:.1f} {unit}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """Return a time in the two units that matter."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def counted(count: int, one: str, many: str = "") -> str:
    """Return a number of things: "1 row", "2 rows", "3 entries"; with `many`, "1 row is".

    Args:
        count: how many.
        one: what one is called.
        many: what several are called, where that is not the usual plural.
    """
    return f"{count} {one if count == 1 else many or plural(one)}"


def plural(noun: str) -> str:
    """Return the usual plural of an English noun."""
    if noun.endswith(("s", "x", "ch", "sh")) and not noun.endswith("och"):  # epochs
        return f"{noun}es"
    is_ies = noun.endswith("y") and noun[-2:-1] not in "aeiou"
    return f"{noun[:-1]}ies" if is_ies else f"{noun}s"
