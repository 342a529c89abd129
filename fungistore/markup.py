"""HTML for notebooks, and pages that need nothing else; all text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

PAGE_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f8; --card: #fff; --text: #1b1f24; --faint: #5d6672;
  --line: #dfe3e8; --well: #eceff2; --mark: #0b6e4f; --mark-text: #fff; --warn: #9a3412; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171a; --card: #1e2328; --text: #e8ebee; --faint: #9aa4b0; --line: #30373e;
    --well: #262c32; --mark: #3fb68b; --mark-text: #0c1a15; --warn: #fdba74; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 56px; }
h1 { font-size: 22px; margin: 0 0 4px; overflow-wrap: anywhere; }
.about { color: var(--faint); margin: 0 0 24px; overflow-wrap: anywhere; }
.failed { border-left: 4px solid var(--warn); background: var(--card); border-radius: 8px;
  padding: 12px 16px; margin: 0 0 20px; }
.failed h2 { margin: 0 0 4px; color: var(--warn); }
.failed p { margin: 2px 0; overflow-wrap: anywhere; }
"""


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


def html_page(title: str, about: str, style: str, body: str) -> str:
    """Return a page without a script or another file.

    Args:
        title: plain text.
        about: a line of plain text below it.
        style: CSS of what is its own.
        body: HTML of the rest.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{PAGE_STYLE}{style}</style></head><body><main>"
        f'<h1>{escape(title)}</h1><p class="about">{escape(about)}</p>{body}</main></body></html>\n'
    )
