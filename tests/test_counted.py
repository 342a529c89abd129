"""Messages count as people do: 1 row, 2 rows."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fungistore.quantities import counted, plural

ROOT = Path(__file__).parents[1]
NOUNS = (
    *("array", "batch", "chunk", "class", "column", "component", "dimension", "epoch", "error"),
    *("failure", "feature", "file", "folder", "forward", "head", "image", "index", "input"),
    *("label", "neighbour", "query", "record", "row", "sample", "seed", "store", "tensor"),
    *("thread", "token", "unit", "vector", "warning", "worker"),
)
WORD = r"(?!of |in |on |for |with |and |or |no )[a-z]+ "
PLURALS = re.compile(rf" (?:{WORD})?(?:{'|'.join(map(plural, NOUNS))})\b(?!/)")
NO_COUNTS = {"name", "feature", "item", "MANIFEST"}  # words, and no numbers


@pytest.mark.parametrize(
    ("count", "words", "said"),
    [
        (0, ("row",), "0 rows"),
        (1, ("row",), "1 row"),
        (2, ("query",), "2 queries"),
        (3, ("class",), "3 classes"),
        (2, ("index",), "2 indexes"),
        (2, ("batch",), "2 batches"),
        (3, ("epoch",), "3 epochs"),
        (2, ("day",), "2 days"),
        (1, ("row is", "rows are"), "1 row is"),
        (2, ("row is", "rows are"), "2 rows are"),
    ],
)
def test_one_is_one_and_more_are_more(count: int, words: tuple[str, ...], said: str) -> None:
    assert counted(count, *words) == said


def uncounted(path: Path) -> Iterator[str]:
    """Where a message has a bare value before a plural."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.JoinedStr):
            continue
        before = ""
        for part, after in zip(node.values, node.values[1:], strict=False):
            if isinstance(part, ast.Constant):
                before = str(part.value)
            elif isinstance(part, ast.FormattedValue) and isinstance(after, ast.Constant):
                value, found = ast.unparse(part.value), PLURALS.match(str(after.value))
                is_share = before.endswith("/")  # 3/4 units
                is_exact = part.format_spec is None
                if found and is_exact and not is_share and value not in NO_COUNTS:
                    yield f"{path.relative_to(ROOT)}:{part.lineno}: {{{value}}}{found[0]}"


def test_no_message_says_1_rows() -> None:
    """A number before a plural goes through `counted`."""
    modules = [path for folder in ("fungistore", "cli") for path in (ROOT / folder).rglob("*.py")]
    assert [place for path in modules for place in uncounted(path)] == []
