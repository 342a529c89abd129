"""Amounts in words: bytes, seconds, and how many of what."""

from __future__ import annotations

import re
from decimal import Decimal

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([a-zA-Z]*)")


def bytes_in(text: str) -> int | None:
    """Return the bytes that a text such as "20GB", "1.5 GB" or "500" says; None: it says none."""
    found = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(found[2].upper()) if found else None
    return None if found is None or unit is None else int(Decimal(found[1]) * unit)


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
