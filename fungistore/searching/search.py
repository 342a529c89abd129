"""`fungi search`: queries in, nearest samples out; the stage from top to bottom."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from shlex import quote

import numpy as np

from fungistore.errors import FungiError, UsageError
from fungistore.indexing.opening import OpenIndex, open_index
from fungistore.indexing.record import restart_hint
from fungistore.indexing.rows import Available
from fungistore.location import inline_uri
from fungistore.machine.context import DEFAULT, Context
from fungistore.matrices.blocks import Vectors
from fungistore.modalities.reading import read_text_of
from fungistore.quantities import counted
from fungistore.searching.options import SearchOptions
from fungistore.searching.queries import (
    TEXT,
    ItemQuery,
    Query,
    SampleQuery,
    TextQuery,
    identify,
    identify_texts,
)
from fungistore.searching.result import Answer, Found, Neighbour, QueryFailure, SearchResult
from fungistore.store.feature import EMBEDDINGS
from fungistore.store.records import named
from fungistore.store.removed import left_out
from fungistore.store.samples import Rows
from fungistore.store.store import Store

MORE = 4  # times as many neighbours are asked for where some are of files that are gone


def search(
    store: str | Path,
    queries: str | Path | Sequence[str | Path] = (),
    options: SearchOptions = SearchOptions(),
    *,
    texts: str | Sequence[str] = (),
    context: Context = DEFAULT,
) -> SearchResult:
    """Find the k nearest samples of each query.

    A query that is a sample id is looked up in the store, and is not among its own neighbours;
    another item, such as an image file, goes through the extraction that the store's features came
    from. A description goes through the text side of the joint encoder, such as CLIP, that
    made the embeddings; in a store of texts, any query that is neither a sample id nor a file is a
    text. A query that cannot be answered is listed, and the others are answered.

    Args:
        store: the store's directory.
        queries: sample ids, and paths of images or what else means an item of the store's kind.
        options: which index, how many neighbours, and where the model runs.
        texts: descriptions of what to find; the index must be of embeddings alone. In a store of
            texts, texts like those, even where a file or a sample is called so.
        context: its reporter is told what happens, its stop asked between batches of items.

    Raises:
        UsageError: no such index, no queries, or none of them is an item or a sample id; or texts
            for an index of other features, or of a model without a text side.
        MismatchError: the store, the weights, or the PCA is not what the index was made from; or
            the text side is of another model.
        StoreError: the store or the index is damaged.
        ItemError: the only item cannot be read.
        StoppedError: `context` asked for it.
    """
    asked = [queries] if isinstance(queries, str | Path) else list(queries)
    described = [texts] if isinstance(texts, str) else list(texts)
    if not asked and not described:
        raise UsageError(
            "there are no queries",
            expected="sample ids, or items that are new (of images, their paths)",
            hint="- reads stdin; --text TEXT describes what to find",
        )
    asked_of = Store.open(store, keep_removed=options.keep_removed)
    opened = open_index(asked_of, options.index, feature_set=options.feature_set)
    k = options.k
    there = Available.now(opened.matrix)
    states = opened.matrix.records.states(opened.record.contents)
    is_stale = any(state != "same" for state in states.values())
    _say_what_is_not_searched(opened, k, there, context)
    if "anew" in states.values():
        context.reporter.notice(
            f"rows that index {opened.record.name!r} has were made anew since, so it has old "
            f"vectors of them: {restart_hint(opened.store, opened.record)}"
        )
    elif is_stale:
        context.reporter.notice(
            f"rows of {', '.join(named(states, 'gone'))} that index {opened.record.name!r} has are "
            "not there now, so it may have old vectors of them: fungi extract, import or pca makes "
            "them again"
        )
    names = list(map(str, asked)) + described
    found = [*identify(opened.store, names[: len(asked)]), *identify_texts(opened.store, described)]
    usable: list[tuple[Query, Vectors]] = []
    errors: dict[int, FungiError] = {
        place: one for place, one in enumerate(found) if isinstance(one, FungiError)
    }
    known = [(place, one) for place, one in enumerate(found) if not isinstance(one, FungiError)]
    vectors = _stored(opened, known, there) | _computed(opened, known, options, context)
    vectors |= _described(opened, known, options, context)
    for place, query in known:
        vector = vectors[place]
        if isinstance(vector, FungiError):
            errors[place] = vector
        else:
            usable.append((query, vector))
    failed = [(names[place], errors[place]) for place in sorted(errors)]
    if not usable:
        raise failed[0][1]
    answers = _answers(opened, usable, k)
    gone = len(np.setdiff1d(left_out(opened.store), opened.record.removed))
    least = min(k, opened.record.vectors - 1 - gone)
    if any(len(answer.neighbours) < least for answer in answers):
        context.reporter.notice(
            f"fewer than {counted(k, 'neighbour')} for some queries: "
            f"{opened.record.factory} looks at a part "
            "of the vectors; a higher --target-recall of fungi index looks at more"
        )
    record = opened.record
    return SearchResult(
        store=opened.store.where,
        modality=opened.store.modality.name,
        feature_set=record.feature_set,
        index=record.name,
        factory=record.factory,
        features=record.features,
        metric=record.metric,
        vectors=record.vectors,
        excluded=record.excluded,
        recall=record.recall.value if record.recall else None,
        is_exact=opened.vectors.is_exact,
        is_stale=is_stale,
        content=record.content,
        k=k,
        answers=answers,
        failed=tuple(
            QueryFailure(text, type(error).__name__, _message(error)) for text, error in failed
        ),
    )


def _message(error: FungiError) -> str:
    return f"{error.what}; {error.hint}" if error.hint else error.what


def _say_what_is_not_searched(
    opened: OpenIndex, k: int, there: Available, context: Context
) -> None:
    record, samples = opened.record, len(opened.store.samples)
    if record.vectors < k:
        context.reporter.notice(
            f"the index has {counted(record.vectors, 'vector')}, fewer than the {k} asked for"
        )
    if record.excluded:
        context.reporter.notice(
            f"{counted(record.excluded, 'row has', 'rows have')} no usable features "
            f"and are not in the index"
        )
    if gone := len(left_out(opened.store)):
        context.reporter.notice(
            f"{counted(gone, 'row')} whose file is gone from the source: not looked for"
        )
    if record.rows_done < there.total:
        context.reporter.notice(
            f"the index has {record.rows_done} of {counted(there.total, 'row')}; fungi index "
            f"{opened.store.where} --feature-set {record.feature_set} --name {record.name} "
            "adds the others"
        )
    if there.total < samples:
        context.reporter.notice(
            f"{counted(samples - there.total, 'sample has', 'samples have')} no "
            f"features to be found by"
        )


def _stored(
    opened: OpenIndex, known: Iterable[tuple[int, Query]], there: Available
) -> dict[int, Vectors | FungiError]:
    """Return the stored vector of each query that is a sample, by the query's place."""
    samples = [(place, query) for place, query in known if isinstance(query, SampleQuery)]
    rows = np.unique(np.array([query.row for _, query in samples], np.int64))
    within = rows[there.has(rows)]
    by_row: dict[int, Vectors] = {}
    for numbers, vectors in opened.matrix.stream(within) if len(within) else ():
        by_row |= dict(zip(numbers.tolist(), vectors, strict=True))
    return {
        place: by_row[query.row]
        if query.row in by_row
        else FungiError(
            "a sample has no usable features",
            where=query.text,
            found="its input could not be read, or was not extracted yet",
            hint="fungi status counts such rows; fungi extract continues",
        )
        for place, query in samples
    }


def _computed(
    opened: OpenIndex,
    known: Iterable[tuple[int, Query]],
    options: SearchOptions,
    context: Context,
) -> dict[int, Vectors | FungiError]:
    """Return the vector of each query that is an item, by the query's place."""
    items = [(place, query) for place, query in known if isinstance(query, ItemQuery)]
    if not items:
        return {}
    from fungistore.searching.features import query_model  # torch, for items alone

    model = query_model(
        opened.store,
        opened.matrix,
        opened.record.pca,
        choice=options,
        context=context,
    )
    vectors = model.vectors([query for _, query in items], context)
    return dict(zip((place for place, _ in items), vectors, strict=True))


def _described(
    opened: OpenIndex,
    known: Iterable[tuple[int, Query]],
    options: SearchOptions,
    context: Context,
) -> dict[int, Vectors | FungiError]:
    """Return the vector of each query that is a text, by the query's place."""
    texts = {place: query.text for place, query in known if isinstance(query, TextQuery)}
    if not texts:
        return {}
    record = opened.record
    if record.features != (EMBEDDINGS,):
        raise UsageError(
            "a text is compared with embeddings alone",
            where=f"index {record.name!r} of {opened.store.where}",
            expected=f"an index of {EMBEDDINGS}",
            found=" + ".join(record.features),
            hint=f"fungi index {quote(opened.store.where)} --features {EMBEDDINGS} makes one; "
            "--index names it",
        )
    from fungistore.joint.space import open_space  # torch, for texts alone

    space = open_space(opened.store, record.feature_set, options, context)
    return dict(zip(texts, space.vectors([*texts.values()], context), strict=True))


def _answers(opened: OpenIndex, usable: list[tuple[Query, Vectors]], k: int) -> tuple[Answer, ...]:
    queries = [query for query, _ in usable]
    stacked = np.stack([vector for _, vector in usable])
    distances, rows = _nearest(opened, stacked, k + 1)  # a sample's own row is left out
    own = [query.row for query in queries if query.row is not None]
    samples = _samples(opened.store, np.unique([*rows[rows >= 0].tolist(), *own]).astype(np.int64))
    answers = []
    for query, far, numbers in zip(queries, distances.tolist(), rows.tolist(), strict=True):
        is_sample = isinstance(query, SampleQuery)
        kept = [
            (distance, row)
            for distance, row in zip(far, numbers, strict=True)
            if row >= 0 and not (is_sample and row == query.row)
        ][:k]
        neighbours = tuple(
            Neighbour(rank, distance, samples[row])
            for rank, (distance, row) in enumerate(kept, start=1)
        )
        sample = None if query.row is None else samples[query.row]
        if isinstance(query, ItemQuery):
            place = (query.root, query.uri)
        elif isinstance(query, TextQuery):
            place = ("", inline_uri(query.text.encode()))
        else:
            assert sample is not None  # a sample query has a row
            place = (sample.root, sample.uri)
        kind = "sample" if is_sample else opened.store.modality.name
        if isinstance(query, TextQuery):
            kind = TEXT
        answers.append(Answer(query.text, kind, sample, *place, neighbours))
    return tuple(answers)


def _nearest(opened: OpenIndex, vectors: Vectors, k: int) -> tuple[Vectors, Rows]:
    """Return the distances and rows [q, n] of at least the k nearest; row -1 where there is none.

    Rows whose file has gone from the source since are passed over, so that more are asked for.
    """
    gone = left_out(opened.store)
    most = min(k + len(gone), opened.record.vectors)
    wanted = min(k, most)
    while True:
        distances, rows = opened.vectors.search(vectors, wanted)
        is_gone = np.isin(rows, gone)
        if wanted == most or (wanted - is_gone.sum(axis=1) >= k).all():
            return distances, np.where(is_gone, -1, rows)
        wanted = min(MORE * wanted, most)


def _samples(store: Store, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> dict[int, Found]:
    """Return the samples of some rows, by row."""
    found: dict[int, Found] = {}
    for sample in store.samples.take(rows):
        row, label = sample["row"], sample["label"]
        name = None if label is None else store.manifest.labels[label]
        root, uri = sample["root"], sample["uri"]
        text = read_text_of(store.modality, root, uri)
        found[row] = Found(row, sample["id"], name, sample["split"], root, uri, text)
    return found
