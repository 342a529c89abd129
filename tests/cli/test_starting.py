"""A word within a second of starting, where a command has seconds to wait for its libraries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

STORE = str(Path(__file__).parents[1] / "fixtures/store-2.0.fungi")


@pytest.mark.parametrize(
    ("words", "first"),
    [
        (["verify", "no-such-store.fungi"], "loading libraries"),
        (["status", STORE], None),
    ],
    ids=["verify", "status"],
)
def test_the_first_word_comes_before_what_takes_long(words: list[str], first: str | None) -> None:
    """On stderr, once, before the first slow import; none where a command takes a moment."""
    done = subprocess.run(
        [sys.executable, "-m", "fungi_cli", *words], capture_output=True, text=True
    )
    assert (done.stderr.splitlines() or [None])[0] == first
    assert done.stderr.count("loading libraries") == (first == "loading libraries")
    assert "loading" not in done.stdout
