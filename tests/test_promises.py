"""docs/promises.md: every promise is linked to a test that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "promises.md"
LINKS = re.findall(
    r"`([\w/]+\.py)::(test_\w+)`(?: \((slow|scale)\))?", PAGE.read_text(encoding="utf-8")
)


@pytest.mark.parametrize(("file", "name", "marker"), LINKS)
def test_a_promise_has_its_test(file: str, name: str, marker: str) -> None:
    """Under the name that the page says, and behind the marker that it says."""
    text = (TESTS / file).read_text(encoding="utf-8")
    found = re.search(rf"^((?:@[^\n]*\n(?:[ )][^\n]*\n)*)*)def {name}\(", text, re.MULTILINE)
    assert found is not None
    for one in ("slow", "scale"):
        whole_file = re.search(rf"^pytestmark = .*{one}", text, re.MULTILINE) is not None
        assert (whole_file or f"@pytest.mark.{one}" in found[1]) == (marker == one)


def test_every_promise_is_linked() -> None:
    """A row without a test is a wish."""
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:2] == "| "]
    promises = [row for row in rows if not row.startswith("| promise")]
    assert promises
    assert [row for row in promises if "::test_" not in row] == []
