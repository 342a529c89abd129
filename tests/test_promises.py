"""docs/promises.md: every promise is linked to a test that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "promises.md"
LINKS = re.findall(r"`([\w/]+\.py)::(test_\w+)`( \(slow\))?", PAGE.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("file", "name", "slow"), LINKS)
def test_a_promise_has_its_test(file: str, name: str, slow: str) -> None:
    """Under the name that the page says, and behind the slow marker where it says so."""
    text = (TESTS / file).read_text(encoding="utf-8")
    found = re.search(rf"^((?:@[^\n]*\n(?:[ )][^\n]*\n)*)*)def {name}\(", text, re.MULTILINE)
    assert found is not None
    whole_file = re.search(r"^pytestmark = .*slow", text, re.MULTILINE) is not None
    assert (whole_file or "@pytest.mark.slow" in found[1]) == bool(slow)


def test_every_promise_is_linked() -> None:
    """A row without a test is a wish."""
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:2] == "| "]
    promises = [row for row in rows if not row.startswith("| promise")]
    assert promises
    assert [row for row in promises if "::test_" not in row] == []
