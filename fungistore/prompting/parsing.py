"""From a model's answer to the label that it means, if it means one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from unicodedata import category, east_asian_width, normalize

SIGNS = "`^~<>=|\u2192"  # that are no punctuation to Unicode, and to people who write answers are
# a minus in front of a number, and what is inside of one: 4.5 is neither 4 nor 5
OF_NUMBERS = re.compile(r"(?<!\w)-(?=\d)|(?<=\d)[.,](?=\d)")
THOUGHT = "<think>", "</think>"  # how some servers show them, in front of the answer
MARKS = " \t\"'`*.,:;!?()[]<>{}\u2018\u2019\u201c\u201d\u00ab\u00bb\u300c\u300d\u3002\uff0c"


class LabelList:
    """Finds a label in an answer.

    Args:
        labels: in the order of their numbers.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._exact = {label: number for number, label in enumerate(labels)}
        self._light = _by_form(labels, _light)
        self._plain = _by_form(labels, _plain)
        longest_first = sorted(self._plain.items(), key=lambda one: len(one[0]), reverse=True)
        self._words = [
            (re.compile(rf"(?<!\S){re.escape(form)}(?!\S)"), number)
            for form, number in longest_first
        ]

    def find(self, answer: str) -> int | None:
        """Return the place of the label that an answer means; None where none, or several are.

        The first of these that gives one label: the answer as it is; without case, quotes and
        white space; without punctuation; its first line, in the same two ways, or else the lines
        that are labels; the labels that occur in it as words, where a longer one hides those in it.
        Thoughts that are shown in front of an answer are none of it.
        """
        begin, end = THOUGHT
        text = answer.rpartition(end)[2].strip()
        if text in self._exact:
            return self._exact[text]
        if text.startswith(begin):  # cut off before there was an answer
            return None
        if (number := self._alone(text)) is not None:
            return number
        lines = [self._alone(line) for line in text.splitlines() if line.strip()]
        if lines and lines[0] is not None:  # what follows is the next example, as some go on
            return lines[0]
        found: set[int | None] = {number for number in lines if number is not None}
        if found:
            return found.pop() if len(found) == 1 else None
        rest = _plain(text)
        for pattern, label in self._words:
            rest, count = pattern.subn("\n", rest)
            if count:
                found.add(label)
        return found.pop() if len(found) == 1 else None

    def _alone(self, text: str) -> int | None:
        """Return the place of the label that a text is, but for case, white space and marks."""
        number = self._light.get(_light(text))
        return self._plain.get(_plain(text)) if number is None else number


def _by_form(labels: Iterable[str], form: Callable[[str], str]) -> dict[str, int | None]:
    """Return the number of the label that has a form, None where several have."""
    table: dict[str, int | None] = {}
    for number, label in enumerate(labels):
        key = form(label)
        if key:
            table[key] = None if key in table else number
    return table


def _light(text: str) -> str:
    """Return a text in one case, with single blanks and no marks around it."""
    return " ".join(_folded(text).split()).strip(MARKS)


def _plain(text: str) -> str:
    """Return the same with blanks for punctuation; scripts without blanks get some."""
    folded = _folded(text)
    kept = {found.start() for found in OF_NUMBERS.finditer(folded)}
    spaced = (one if at in kept else _spaced(one) for at, one in enumerate(folded))
    return " ".join("".join(spaced).split())


def _spaced(one: str) -> str:
    if category(one)[0] in "PZC" or one in SIGNS:
        return " "
    return f" {one} " if east_asian_width(one) in "WF" else one


def _folded(text: str) -> str:
    return normalize("NFC", normalize("NFC", text).casefold()).replace("\u2212", "-")
