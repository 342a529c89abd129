"""From a model's answer to the label that it means, if it means one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from unicodedata import category, east_asian_width, normalize

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
        white space; without punctuation; a line of it alone, in the same two ways; the labels that
        occur in it as words, where a longer one hides those in it.
        """
        text = answer.strip()
        if text in self._exact:
            return self._exact[text]
        for part in (text, *text.splitlines()):
            for form, table in ((_light, self._light), (_plain, self._plain)):
                number = table.get(form(part))
                if number is not None:
                    return number
        found, rest = set(), _plain(text)
        for pattern, label in self._words:
            rest, count = pattern.subn("\n", rest)
            if count:
                found.add(label)
        return found.pop() if len(found) == 1 else None


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
    return " ".join(normalize("NFC", normalize("NFC", text).casefold()).split()).strip(MARKS)


def _plain(text: str) -> str:
    """Return the same with blanks for punctuation; scripts without blanks get some."""
    spaced = (
        " " if category(one)[0] in "PZC" else f" {one} " if east_asian_width(one) in "WF" else one
        for one in normalize("NFC", normalize("NFC", text).casefold())
    )
    return " ".join("".join(spaced).split())
