"""Whether a command printed what its page shows."""

from __future__ import annotations

import re

ANY_LINES = "..."
NUMBER = re.compile(
    r"(?<![\w.])(?P<number>[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?)"
    r"(?: ?(?P<time>(?:ms|s|min|h|hours?|minutes?|seconds?)\b(?: \d\d (?:s|min)\b)?)"
    r"| ?(?P<space>(?:[kKMGT]?i?B|bytes)\b(?:/s)?)| ?(?P<rate>(?:images)?/s\b))?"
)
IMAGE = re.compile(r"\b(?:global|local|nominal)(?:/\w+\.jpg)?\b")  # and its class
DIGEST = re.compile(r"\b[0-9a-f]{8,}\b")
PLACE = re.compile(r"(?<!\S)/\S+/")  # where the reader is
PASSING = re.compile(r"loading libraries|.+: \d+/\d+, [\d.]+/s, .+ left")  # while one waits
POINTS, SHARE = 3.0, 0.1  # how far a number of a real model may be from the page's


def unlike(shown: str, printed: str, *, by_number: bool = False) -> str | None:
    """Return the first line that a page shows and a command did not print, or None.

    What is printed for who waits need not be shown. Spaces, fingerprints and absolute paths may
    differ; a line `...` stands for any lines. Numbers, and which images of which class are found,
    may differ too, unless they go `by_number`: then only amounts of time and space, and rates, may,
    and other numbers by three, or a tenth.
    """
    lines = [line for line in printed.splitlines() if line.strip() and not PASSING.fullmatch(line)]
    position, skipping = 0, False
    for line in filter(str.strip, shown.splitlines()):
        if line.strip() == ANY_LINES:
            skipping = True
            continue
        there = range(position, len(lines) if skipping else min(position + 1, len(lines)))
        found = next((at for at in there if _is_like(line, lines[at], by_number)), None)
        if found is None:
            return line
        position, skipping = found + 1, False
    if position < len(lines) and not skipping:
        return f"(nothing more, but there was: {lines[position]})"
    return None


def _is_like(shown: str, printed: str, by_number: bool) -> bool:
    wanted, found = (DIGEST.sub("@", PLACE.sub("/", line)) for line in (shown, printed))
    if not by_number:
        wanted, found = (IMAGE.sub("@", line) for line in (wanted, found))
    if _words(wanted) != _words(found):
        return False
    pairs = zip(NUMBER.finditer(wanted), NUMBER.finditer(found), strict=True)
    return not by_number or all(
        a.lastgroup != "number" or _is_near(a["number"], b["number"]) for a, b in pairs
    )


def _words(line: str) -> list[str]:
    """Return the words of a line, with what a number counts in its place: time, space, ..."""
    return NUMBER.sub(lambda found: f"#{found.lastgroup}", line).split()


def _is_near(shown: str, printed: str) -> bool:
    first, second = (float(number.replace(",", "")) for number in (shown, printed))
    return abs(first - second) <= max(POINTS, SHARE * abs(first))
