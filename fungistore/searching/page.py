"""The answers of a search as one HTML page that needs nothing else: no script, no other file."""

from __future__ import annotations

from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from fungistore.errors import ItemError
from fungistore.location import is_inline
from fungistore.markup import html_page
from fungistore.modalities.modality import Modality, find_modality, with_article
from fungistore.modalities.reading import read_item
from fungistore.quantities import counted
from fungistore.searching.queries import TEXT
from fungistore.store.disk_errors import unwritable
from fungistore.store.durable import publish_bytes
from fungistore.text import beginning

if TYPE_CHECKING:
    from fungistore.searching.result import Answer, Neighbour, QueryFailure, SearchResult

QUERY_CHARACTERS = 1000
STYLE = """
.answer { display: grid; grid-template-columns: 220px 1fr; gap: 20px; align-items: start;
  background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 18px;
  margin: 0 0 20px; }
.query .frame { border: 2px solid var(--mark); }
h2 { font-size: 15px; margin: 10px 0 0; overflow-wrap: anywhere; }
ol { list-style: none; margin: 0; padding: 0; display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fill, minmax(148px, 1fr)); }
li { min-width: 0; }
.frame { aspect-ratio: 1; background: var(--well); border-radius: 8px; overflow: hidden;
  display: grid; place-items: center; color: var(--faint); font-size: 13px; text-align: center; }
.frame .text { margin: 0; padding: 10px; width: 100%; height: 100%; overflow: auto;
  color: var(--text); text-align: start; overflow-wrap: anywhere; }
.frame img { width: 100%; height: 100%; object-fit: contain; display: block; }
.facts { display: flex; justify-content: space-between; gap: 8px; margin-top: 6px;
  font-variant-numeric: tabular-nums; }
.rank { color: var(--faint); }
.label { display: inline-block; max-width: 100%; border: 1px solid var(--line); margin-top: 4px;
  border-radius: 999px; padding: 0 9px; font-size: 13px; overflow: hidden; white-space: nowrap;
  text-overflow: ellipsis; vertical-align: bottom; }
.label.same { background: var(--mark); border-color: var(--mark); color: var(--mark-text); }
.name { color: var(--faint); font-size: 12.5px; overflow-wrap: anywhere; margin-top: 2px; }
@media (max-width: 680px) {
  main { padding: 18px 12px 40px; }
  .answer { grid-template-columns: 1fr; padding: 14px; }
  .query { display: grid; grid-template-columns: 112px 1fr; gap: 12px; align-items: center; }
  h2 { margin: 0; }
  ol { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 12px; } }
"""


def write_page(path: str | Path, result: SearchResult) -> None:
    """Write the page to a file, whole or not at all.

    Raises:
        UsageError: the file cannot be written there.
        FungiError: the disk is full.
    """
    try:
        publish_bytes(Path(path), render_page(result).encode("utf-8", "replace"))
    except OSError as error:
        raise unwritable("the page cannot be written", f"--html {path}", error) from error


def render_page(result: SearchResult) -> str:
    """Return the page, items included as the modality shows them; a placeholder for one gone."""
    modality = find_modality(result.modality)

    @cache
    def picture(root: str, uri: str, text: str) -> str:
        return f'<div class="frame">{_shown(modality, root, uri, text)}</div>'

    def neighbour(one: Neighbour, label: str | None) -> str:
        sample = one.sample
        return (
            f"<li>{picture(sample.root, sample.uri, sample.id)}"
            f'<div class="facts"><span class="rank">{one.rank}</span>'
            f"<span>{one.distance:.4f}</span></div>{_label(sample.label, label)}"
            f'<div class="name">{escape(sample.id)}</div></li>'
        )

    def answer(one: Answer) -> str:
        label = one.sample.label if one.sample else None
        is_read = one.kind == TEXT and is_inline(one.uri)  # in the heading, all of it
        shown = "" if is_read else picture(one.root, one.uri, one.query)
        listed = "".join(neighbour(other, label) for other in one.neighbours)
        return (
            f'<section class="answer"><div class="query">{shown}'
            f"<div><h2>{escape(beginning(one.query, QUERY_CHARACTERS))}</h2>{_label(label, None)}"
            f'<div class="name">{_origin(one, modality)}</div></div></div>'
            f"<ol>{listed}</ol></section>"
        )

    title = f"Nearest {modality.items} in {result.store}"
    failed = _failed(result.failed) if result.failed else ""
    body = failed + "".join(answer(one) for one in result.answers)
    return html_page(title, _about(result), STYLE, body)


def _about(result: SearchResult) -> str:
    recall = "" if result.recall is None else f", recall@10 {100 * result.recall:.1f} %"
    recall = ", exact" if result.is_exact else recall
    distance = "1 - cosine" if result.metric == "cosine" else "Euclidean distance"
    return (
        f"{' + '.join(result.features)} of {result.feature_set}; index {result.index} "
        f"({result.factory}, {counted(result.vectors, 'vector')}{recall}); numbers are {distance}"
    )


def _origin(answer: Answer, modality: Modality) -> str:
    if answer.kind == "sample":
        return "a sample of the store"
    if answer.kind == TEXT != modality.name:
        return "a description"
    if answer.sample:
        what = modality.item if is_inline(answer.uri) else "file"
        return f"the {what} of sample {escape(answer.sample.id)}"
    item = with_article(modality.item)
    return item if is_inline(answer.uri) else f"{item} file"


def _label(label: str | None, of_query: str | None) -> str:
    if label is None:
        return ""
    kind = "label same" if label == of_query else "label"
    title = ' title="same label as the query"' if label == of_query else ""
    return f'<span class="{kind}"{title}>{escape(label)}</span>'


def _failed(failures: tuple[QueryFailure, ...]) -> str:
    lines = "".join(f"<p><b>{escape(one.query)}</b>: {escape(one.message)}</p>" for one in failures)
    count = (
        "1 query was"
        if len(failures) == 1
        else f"{counted(len(failures), 'query was', 'queries were')}"
    )
    return f'<section class="failed"><h2>{count} not answered</h2>{lines}</section>'


def _shown(modality: Modality, root: str, uri: str, text: str) -> str:
    try:
        return modality.show(read_item(modality, root, uri), text)
    except ItemError:
        return f"{modality.item} cannot be read"
