"""Whether a command printed what its page shows."""

from __future__ import annotations

import re

ANY_LINES = "..."
NUMBER = r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?"
UNIT = r"(?: ?(?:[kKMGT]?i?B|bytes|ms|s|min|h|hours?|minutes?|seconds?)(?:/s)?\b)?"
SOUGHT = re.compile(r"\b(?:[0-9a-f]{16,}|(?:global|local|nominal)/\w+\.jpg|sha256:\w+)\b")


def unlike(shown: str, printed: str) -> str | None:
    """Return the first line that a page shows and a command did not print, or None.

    Numbers with their units of time and size may differ, and so may spaces, fingerprints, and which
    images are neighbours. A line `...` stands for any lines.
    """
    lines = [_bare(line) for line in printed.splitlines() if line.strip()]
    position, skipping = 0, False
    for line in shown.splitlines():
        if not line.strip():
            continue
        if line.strip() == ANY_LINES:
            skipping = True
            continue
        wanted = _bare(line)
        there = range(position, len(lines) if skipping else min(position + 1, len(lines)))
        found = next((at for at in there if lines[at] == wanted), None)
        if found is None:
            return line
        position, skipping = found + 1, False
    if position < len(lines) and not skipping:
        return f"(nothing more, but there was: {lines[position]})"
    return None


def _bare(line: str) -> str:
    known = SOUGHT.sub("@", line)
    return re.sub(r"[\s─━-]+", " ", re.sub(NUMBER + UNIT, "#", known)).strip()
