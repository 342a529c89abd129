"""What counts as the output that a page shows."""

from __future__ import annotations

import pytest
from likeness import unlike

SHOWN = """\
features    train  test   acc
embeddings     96    24  70.83 (50.0-87.5)
saved: s.fungi/evals/knn-559b19470488ba53.json
"""


@pytest.mark.parametrize(
    ("printed", "is_like"),
    [
        (SHOWN, True),
        (SHOWN.replace("70.83", "8.3").replace("  ", " "), True),
        (SHOWN.replace("559b19470488ba53", "aaaabbbbccccdddd"), True),
        (SHOWN.replace("24  ", "24 s  "), False),
        (SHOWN.replace("acc", "kappa"), False),
        (SHOWN.replace("embeddings", "embeddings + kl"), False),
        (SHOWN + "warning: something\n", False),
        (SHOWN.replace("saved: s.fungi/evals/knn-559b19470488ba53.json\n", ""), False),
        ("", False),
    ],
    ids=["same", "numbers", "digest", "unit", "word", "name", "more", "less", "nothing"],
)
def test_words_and_lines_count_and_numbers_do_not(printed: str, is_like: bool) -> None:
    """A changed word, or a line too many or too few, is seen."""
    assert (unlike(SHOWN, printed) is None) == is_like


def test_a_line_may_stand_for_others() -> None:
    """`...` for any number of lines, also none; what follows must still come."""
    assert unlike("a\n...\nd\n", "a\nb\nc\nd\n") is None
    assert unlike("a\n...\n", "a\n") is None
    assert unlike("a\n...\nd\n", "a\nb\nc\n") == "d"


def test_what_is_said_to_who_waits_is_no_output() -> None:
    """It depends on the machine: libraries that are imported, a line every 30 s."""
    assert unlike("a\nb\n", "loading libraries\na\nimages: 64/120, 1.7/s, 33 s left\nb\n") is None
    assert unlike("a\n", "loading vit\na\n") == "a"


def test_a_real_models_numbers_are_near_the_pages() -> None:
    """But for amounts of time and space, and the neighbours that a search finds."""
    assert unlike("acc 70.8", "acc 69.1", by_number=True) is None
    assert unlike("acc 70.8", "acc 50.0", by_number=True) == "acc 70.8"
    assert unlike("id 0123456789abcdef", "id 00ab5678a0123abc", by_number=True) is None
    assert unlike("from /home/you2/images", "from /tmp/1/2/images", by_number=True) is None
    assert unlike("in 12 s, 4.0 MB", "in 1 min 30 s, 900 kB", by_number=True) is None
    assert unlike("in 12 s", "in 12 MB") == "in 12 s"
    assert unlike("2.0 images/s", "9 images/s", by_number=True) is None
    assert unlike("120 images", "60 images", by_number=True) == "120 images"
    assert unlike("1 local/a.jpg", "1 global/b.jpg") is None
    assert unlike("1 local/a.jpg", "1 global/b.jpg", by_number=True) == "1 local/a.jpg"
