"""From an answer to the label that it means: exact, then normalised, never a guess."""

from __future__ import annotations

import pytest

from fungistore.prompting.parsing import LabelList

NEWS = ("sport", "World News", "world", "sci.med", "rec.sport.hockey")


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("sport", "sport"),
        (" sport\n", "sport"),
        ("SPORT.", "sport"),
        ('"Sport"', "sport"),
        ("**sport**", "sport"),
        ("\u201cSport\u201d!", "sport"),
        ("world  news", "World News"),
        ("World_News", "World News"),
        ("Sci Med", "sci.med"),
        ("Label: sport", "sport"),
        ("The label is rec.sport.hockey, clearly.", "rec.sport.hockey"),
        ("I would say this is world news", "World News"),
        ("world", "world"),
        ("Well:\nsport\nsince world news would be longer", "sport"),
        ("sport sport sport", "sport"),
        ("The label is `sport`.", "sport"),
        ("<label>sport</label>", "sport"),
        ("Label=sport", "sport"),
        ("sport\n\nText: a storm\nLabel: world", "sport"),
        ("One of:\nsport\nworld\n\nAnswer: world", None),
        ("Label:\n\nworld\nworld\n", "world"),
        ("<think>\nsport\nor world?\n</think>\n\nWorld", "world"),
        ("<think>sport it may be, bec", None),
        ("", None),
        ("...", None),
        ("politics", None),
        ("sports", None),
        ("underworld", None),
        ("sport or sci.med", None),
        ("world news, or the world", None),
    ],
)
def test_an_answer_means_one_label_or_none(answer, label):
    """A longer label hides a shorter one inside it; two that are left are none."""
    found = LabelList(NEWS).find(answer)
    assert (None if found is None else NEWS[found]) == label


@pytest.mark.parametrize(
    ("labels", "answer", "label"),
    [
        (("Cat", "cat"), "cat", "cat"),
        (("Cat", "cat"), "CAT", None),
        (("C", "C++", "C#"), "c++.", "C++"),
        (("C", "C++", "C#"), "C#", "C#"),
        (("-1", "0", "1"), "-1", "-1"),
        (("-1", "0", "1"), "the answer is 1", "1"),
        (("-1", "0", "1"), "Label: -1.", "-1"),
        (("-1", "0", "1"), "\u22121", "-1"),
        (("1", "2", "3", "4", "5"), "4.7", None),
        (("1", "2", "3", "4", "5"), "-5", None),
        (("1", "2", "3", "4", "5"), "4,5", None),
        (("1", "2", "3", "4", "5"), "3. It is good", "3"),
        (("4", "4.5", "5"), "I give 4.5.", "4.5"),
        (("caf\u00e9", "bar"), "CAFE\u0301", "caf\u00e9"),
        (("\u4f53\u80b2", "\u8d22\u7ecf"), "\u7b54\u6848\u662f\u4f53\u80b2\u3002", "\u4f53\u80b2"),
        (("stra\u00dfe", "weg"), "STRASSE", "stra\u00dfe"),
        (("\u2764\ufe0f", "\U0001f602"), "\u2764\ufe0f!", "\u2764\ufe0f"),
        (("?!", "ok"), "?!", "?!"),
        (("?!", "ok"), "what", None),
        (("a.b", "a-b"), "a-b", "a-b"),
        (("a.b", "a-b"), "it is a b", None),
    ],
)
def test_labels_of_any_kind(labels, answer, label):
    """Labels that are alike but for what normalising drops are told apart exactly, or not."""
    found = LabelList(labels).find(answer)
    assert (None if found is None else labels[found]) == label
