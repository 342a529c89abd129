"""HTML for notebooks: what a value shows of itself, with all text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def html_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table of text below a title."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div><p>{escape(title)}</p>{table}</div>"


def html_frame(page: str, height: int) -> str:
    """Return a page of its own, whose style reaches nothing else, so many pixels high."""
    style = f"width:100%;height:{height}px;border:0"
    return f'<iframe srcdoc="{escape(page, quote=True)}" style="{style}"></iframe>'
