"""What each query is: a sample of the store, or an item such as an image file; and its views."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc

from fungistore.errors import FungiError, ItemError, UsageError
from fungistore.location import inline_uri, is_inline, path_to_uri, uri_to_path
from fungistore.modalities.modality import Modality, with_article
from fungistore.modalities.reading import open_item
from fungistore.remote.places import relative
from fungistore.remote.urls import is_url
from fungistore.sources.sample import NamedItem
from fungistore.store.store import Store

TEXT = "text"  # the kind of a query that is a description
NEAR_IDS_SEARCHED = 10_000  # looking for a misspelt id must not take a table of millions


@dataclass(frozen=True)
class SampleQuery:
    """A query that is a sample id: its row."""

    text: str
    row: int


@dataclass(frozen=True)
class ItemQuery(NamedItem):
    """A query that is an item, such as an image file; `row` is of the sample it is, or None."""

    row: int | None


@dataclass(frozen=True)
class TextQuery:
    """A query that is a text, for embeddings of a joint encoder; no sample is one."""

    text: str
    row: None = None


Query = SampleQuery | ItemQuery | TextQuery


def identify(store: Store, texts: Sequence[str]) -> list[Query | FungiError]:
    """Tell for each query what it is, or what is wrong with it; an id goes before an item.

    One pass over the sample table serves any number of queries.
    """
    rows = _rows_of_ids(store, texts)
    others = [text for text in texts if text not in rows]
    items = dict(zip(others, identify_items(store, others), strict=True))
    return [
        SampleQuery(text, rows[text])
        if text in rows
        else _unknown(store, text)
        if isinstance(items[text], UsageError)
        else items[text]
        for text in texts
    ]


def identify_items(store: Store, texts: Sequence[str]) -> list[ItemQuery | FungiError]:
    """Tell for each text which item it means, such as a path its file, or what is wrong with it."""
    modality = store.modality
    found = {text: _uri(modality, text) for text in texts}
    known = _samples_of_uris(store, [uri for uri in found.values() if isinstance(uri, str)])
    return [
        uri if isinstance(uri, UsageError) else _item_query(modality, text, uri, known)
        for text, uri in ((text, found[text]) for text in texts)
    ]


def identify_texts(store: Store, texts: Sequence[str]) -> list[Query | FungiError]:
    """Return the queries that descriptions are: in a store of texts, texts like its own."""
    if not hasattr(store.modality, "text_of"):
        return [*map(TextQuery, texts)]
    uris = {text: inline_uri(text.encode(errors="replace")) for text in texts}
    known = _samples_of_uris(store, [*uris.values()])
    return [_item_query(store.modality, text, uris[text], known) for text in texts]


def _uri(modality: Modality, text: str) -> str | UsageError:
    try:
        return modality.query(text)
    except UsageError as error:
        return error


def _rows_of_ids(store: Store, texts: Sequence[str]) -> dict[str, int]:
    wanted = pa.array(sorted({text for text in texts if _is_text(text)}), pa.string())
    rows: dict[str, int] = {}
    for batch in store.samples.batches("row", "id"):
        mask = pc.is_in(batch["id"], value_set=wanted)
        hits = batch.filter(mask)
        rows |= zip(hits["id"].to_pylist(), hits["row"].to_pylist(), strict=True)
    return rows


def _samples_of_uris(store: Store, uris: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Return (row, id) by absolute uri, for those of the uris that are samples'."""
    known: dict[str, tuple[int, str]] = {}
    if not uris:
        return known
    spelled: dict[str, dict[str, str]] = {}  # root -> spelling -> uri
    for part in store.samples.parts:
        if part.root not in spelled:
            spelled[part.root] = {
                spelling: uri for uri in uris for spelling in _spellings(uri, part.root)
            }
    ends, first = [], 0
    for part in store.samples.parts:
        first += part.rows
        ends.append((first, part.root))
    for batch in store.samples.batches("row", "id", "uri"):
        if not len(batch):
            continue
        row = batch["row"][0].as_py()
        wanted = spelled[next(root for end, root in ends if row < end)]
        hits = batch.filter(pc.is_in(batch["uri"], value_set=pa.array(list(wanted), pa.string())))
        uris_of_hits, rows, ids = (hits[name].to_pylist() for name in ("uri", "row", "id"))
        places = zip(rows, ids, strict=True)
        known |= zip((wanted[uri] for uri in uris_of_hits), places, strict=True)
    return known


def _spellings(uri: str, root: str) -> set[str]:
    """Return the uris that a source of this root may have given to an item."""
    uris = {uri}
    if is_inline(uri):
        return uris
    path = uri_to_path(uri)
    places = [(path, root)]
    if not is_url(path) and not is_url(root):
        places.append((os.path.realpath(path), os.path.realpath(root)))
    for file, base in places:
        if file.startswith(base.rstrip(os.sep) + os.sep):
            uris.add(path_to_uri(relative(file, base)))
    return uris


def _item_query(
    modality: Modality, text: str, uri: str, known: dict[str, tuple[int, str]]
) -> ItemQuery | FungiError:
    row, views = known.get(uri, (None, None))
    folder = ""
    if not is_inline(uri) and not is_url(uri):
        folder, name = os.path.split(uri_to_path(uri))
        uri = path_to_uri(name)
    if views is None:
        try:
            with open_item(folder, uri) as stream:
                views = hashlib.file_digest(stream, "sha256").hexdigest()
        except ItemError as error:
            return modality.error(error.what, where=text)
        except OSError as error:
            what = f"the {modality.item} cannot be read"
            return modality.error(what, where=text, found=error.strerror)
    return ItemQuery(text, folder, uri, views, row)


def _unknown(store: Store, text: str) -> UsageError:
    ids = list(islice(store.samples.ids(), NEAR_IDS_SEARCHED))
    near = difflib.get_close_matches(text, ids, n=1)
    item, items = with_article(store.modality.item), store.modality.items
    hint = f"did you mean {near[0]!r}?" if near else None
    if hint is None and len(text.split()) > 1:
        hint = f"the store has {items}: --text finds them by words where CLIP or its kind made them"
    return UsageError(
        f"a query is neither {item} file nor a sample id",
        where=text,
        expected=f"the path of {item}, or an id of the sample table, such as "
        + repr(ids[0] if ids else ""),
        hint=hint,
    )


def _is_text(text: str) -> bool:
    """Whether a query is text that a sample id could be; odd bytes of a path are not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
