"""Copies of a text without some of its words: the views of SimCLR on texts (FUNGI, table 24).

A word is what stands between white space. Scripts that put none between words (Chinese, Japanese,
Thai and others) would be one word a sentence, so each of their characters is a word, together with
the marks and the punctuation behind it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from itertools import pairwise
from unicodedata import category

from fungistore.modalities.requests import WordDeletions
from fungistore.randomness import Stream

MOST_DELETED = 10  # words, by the rule "share"

# Thai and Lao, Tibetan, Myanmar, Khmer, kana, ideographs
_UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
# Accents and vowel signs of their own belong to the letter before them, and \w has none of them.
_ACCENT = "_"
_WORD = re.compile(rf"[{_UNSPACED}](?:{_ACCENT}|[^\w\s])*|[^\s{_UNSPACED}]+")
# a word without its punctuation, or one mark of it, as nlpaug's tokens are
_TOKEN = re.compile(rf"[{_UNSPACED}]{_ACCENT}*|[^\W{_UNSPACED}]+|[^\w\s]")

Span = tuple[int, int]


def delete_words(text: str, request: WordDeletions, random: Stream) -> list[str]:
    """Return `request.count` copies of a text, each without some of its words.

    The rule "independent" draws a number in [0, 1) for each word of each copy, and leaves out the
    words whose number is below the rate. Where that would be all of them, the word of the highest
    number stays, the first one of several.

    The rule "share" is that of the reference code, nlpaug's deletion of random words. A word is
    without its punctuation, of which each mark counts as a word, but is never left out:
    ceil(rate * words) are, at least one and at most MOST_DELETED, and a text of one word stays. Not
    copied is what nlpaug does to the rest: blanks around apostrophes and other marks, a capital on
    the word behind a deleted first one, and punctuation that is left without a single word.

    White space stays as it was: of what is on both sides of a deleted word, the longer.

    Args:
        text: any text; one without words comes back as it is.
        request: how many copies, and which words they lose.
        random: the stream that decides; nothing else does.
    """
    is_share = request.rule == "share"
    plain = text if text.isascii() else "".join(map(_without_accents, text))
    words = [found.span() for found in (_TOKEN if is_share else _WORD).finditer(plain)]
    if not words:
        return [text] * request.count
    if is_share:
        can_go = [number for number, (start, _) in enumerate(words) if plain[start].isalnum()]
        wanted = min(max(math.ceil(request.rate * len(words)), 1), MOST_DELETED)
        count = min(wanted, max(len(can_go) - 1, 0))
        gone = (
            {can_go[place] for place in random.choice(len(can_go), count).tolist()}
            for _ in range(request.count)
        )
    else:
        gone = (_independent(len(words), request.rate, random) for _ in range(request.count))
    return [_without(text, words, numbers) for numbers in gone]


def _without_accents(character: str) -> str:
    return _ACCENT if category(character).startswith("M") else character


def _independent(words: int, rate: float, random: Stream) -> set[int]:
    """Return the numbers of words that go, each at a rate, and never all."""
    drawn = random.uniform(words)
    gone = drawn < rate
    if gone.all():
        gone[drawn.argmax()] = False
    return set(gone.nonzero()[0].tolist())


def _without(text: str, words: Sequence[Span], gone: Collection[int]) -> str:
    """Return a text without the words of some numbers."""
    if not gone:
        return text
    gaps = ["", *(text[before[1] : after[0]] for before, after in pairwise(words))]
    pieces = [text[: words[0][0]]]
    first, has_begun = 0, False
    for number, (start, end) in enumerate(words):
        if number in gone:
            continue
        is_closing = not (text[start].isalnum() or text[end : end + 1].isalnum())
        if has_begun and is_closing:  # a full stop stays as near as it was
            pieces.append(gaps[number])
        elif has_begun:
            pieces.append(max(gaps[first + 1 : number + 1], key=len))
        pieces.append(text[start:end])
        first, has_begun = number, True
    return "".join([*pieces, text[words[-1][1] :]])
