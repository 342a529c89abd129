"""The pages as a site: it builds without a warning, has every public name, and needs no network."""

from __future__ import annotations

import re
from pathlib import Path

import fungistore

CHECKOUT = Path(__file__).parents[2]
LONGEST_README = 130  # lines


def test_the_readme_is_short() -> None:
    """What is longer is a page of docs/."""
    lines = (CHECKOUT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= LONGEST_README


def test_every_public_name_has_one_entry() -> None:
    """The reference has `fungistore.__all__`, each name under the name that users type."""
    pages = sorted((CHECKOUT / "docs" / "api").glob("*.md"))
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    entries = re.findall(r"^::: fungistore\.(\w+)$", text, re.MULTILINE)
    assert sorted(entries) == sorted(fungistore.__all__)
