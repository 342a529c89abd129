"""Copies of texts without some of their words."""

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fungistore.modalities.requests import WordDeletions
from fungistore.modalities.text.words import MOST_DELETED, delete_words
from fungistore.randomness import Stream

SENTENCE = "the quick brown fox jumps over the lazy dog of my old neighbour"


def copies(text: str, rate: float, rule: str, count: int = 12, name: str = "a") -> list[str]:
    """Copies of a text by the stream of a name."""
    request = WordDeletions(count, rate, rule)  # type: ignore[arg-type]
    return delete_words(text, request, Stream(0, "views", name))


def test_each_word_goes_by_itself_at_the_rate() -> None:
    """The paper's rule: over many copies each word is left out at the rate, whatever its place."""
    words = SENTENCE.split()
    gone = Counter[int]()
    made = copies(" ".join(f"{word}{n}" for n, word in enumerate(words)), 0.1, "independent", 2000)
    for copy in made:
        left = {int(re.sub(r"\D", "", word)) for word in copy.split()}
        gone.update(set(range(len(words))) - left)
    assert all(0.07 < gone[number] / 2000 < 0.13 for number in range(len(words)))
    assert len({len(copy.split()) for copy in made}) > 3


@pytest.mark.parametrize("words", [2, 9, 10, 11, 64, 300])
def test_a_share_of_the_words_goes(words: int) -> None:
    """The reference's rule: ceil(rate * words), at least one and at most ten, without replacement.

    A mark of punctuation counts as a word, and is never left out.
    """
    text = " ".join(f"w{number}" for number in range(words - 1)) + "!"
    expected = min(max(-(-words // 10), 1), MOST_DELETED) if words > 2 else 0
    for copy in copies(text, 0.1, "share"):
        assert len(copy.split()) == max(words - 1 - expected, 1)
        assert copy.endswith("!")


@pytest.mark.parametrize(
    ("text", "rule", "expected"),
    [
        ("one", "independent", {"one"}),
        ("one", "share", {"one"}),
        ("Hello.", "share", {"Hello."}),
        ("... !", "share", {"... !"}),
        (" \n", "independent", {" \n"}),
        ("", "share", {""}),
        ("a b c", "independent", {"a", "b", "c"}),
        (" a b ", "share", {" a ", " b "}),
        ("a,b", "share", {",b", "a,"}),
        ("a\n\nb c", "share", {"b c", "a\n\nc", "a\n\nb"}),
        ("A我 B", "share", {"我 B", "A B", "A我"}),
        ("What's", "share", {"'s", "What'"}),
        ("the fox, (he)", "share", {"fox, (he)", "the, (he)", "the fox, ()"}),
        ("a b-c", "share", {"b-c", "a -c", "a b-"}),
    ],
)
def test_what_stays_reads_as_before(text: str, rule: str, expected: set[str]) -> None:
    """White space and marks stay, one word does at least, and nothing is glued or capitalised."""
    assert set(copies(text, 0.99 if rule == "independent" else 0.1, rule, 60)) == expected


@pytest.mark.parametrize("rule", ["independent", "share"])
@pytest.mark.parametrize(
    "text", ["我今天很高兴、因为下雨了。", "สวัสดีครับคุณ", "今日はとても暑いですね"]
)
def test_scripts_without_blanks_lose_characters(text: str, rule: str) -> None:
    """A sentence of a script without blanks is no single word: some characters of it go."""
    made = copies(text, 0.3, rule)
    assert len(set(made)) > 3
    assert all(copy and set(copy) <= set(text) for copy in made)


def test_vowel_signs_go_with_their_letter() -> None:
    """Marks that no letter is in are part of the word that they are written in."""
    text = "हिन्दी भाषा है"
    assert {word for copy in copies(text, 0.4, "share") for word in copy.split()} <= set(
        text.split()
    )


@given(
    st.text(st.sampled_from("ab ,\n我を้é\u0301\0"), max_size=40),
    st.sampled_from(["independent", "share"]),
    st.floats(0, 1),
)
def test_copies_are_what_is_left(text: str, rule: str, rate: float) -> None:
    """Of any text a copy keeps the order, something to read, and is the same from the same name."""
    made = copies(text, rate, rule, 3)
    assert made == copies(text, rate, rule, 3)
    assert made[:2] == copies(text, rate, rule, 2)
    for copy in made:
        rest = iter(text)
        assert all(character in rest for character in copy)
        assert bool(copy.strip()) == bool(text.strip())
