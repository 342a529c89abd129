"""`fungi retrieve`: the nearest training samples of each query, as JSON lines or as prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from fungistore.errors import UsageError
from fungistore.evaluation.result import LABEL_HINT, count_excluded
from fungistore.machine.context import DEFAULT, Context
from fungistore.matrices.blocks import FeatureMatrix, open_features
from fungistore.matrices.seen import refuse_seen
from fungistore.matrices.splits import named_split
from fungistore.pca.stage import refuse_leak
from fungistore.prompting.items import Item, Items
from fungistore.prompting.neighbours import Near, at_most, near
from fungistore.prompting.options import RetrieveOptions
from fungistore.prompting.template import Template, open_template
from fungistore.quantities import counted
from fungistore.store.durable import publish
from fungistore.store.samples import Rows
from fungistore.store.store import Store

TRAIN = "train"
SPLIT_HINT = "fungi label gives rows splits: a table of id,split"
AT_ONCE = 1024  # queries whose examples' texts are in memory


@dataclass(frozen=True)
class Example:
    """A training sample, and the cosine of its features with those of the query."""

    item: Item
    similarity: float


@dataclass(frozen=True)
class Retrieved:
    """A query and its examples, in the order asked for."""

    query: Item
    examples: tuple[Example, ...]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        examples = [
            one.item.to_json() | {"similarity": round(one.similarity, 6)} for one in self.examples
        ]
        return self.query.to_json() | {"examples": examples}


class Retrieval:
    """The examples of each query, which are found while it is iterated; use `retrieve`.

    Attributes:
        store: the store's directory.
        feature_set: name of the feature set.
        features: the blocks, or the name of a PCA.
        k: examples of each query.
        queries: how many there are.
        train: rows that examples are chosen from.
        excluded: rows left out, by reason.
        labels: names of the classes that training rows have.
    """

    def __init__(
        self,
        matrix: FeatureMatrix,
        options: RetrieveOptions,
        queries: Rows,
        train: Rows,
        excluded: dict[str, int],
        context: Context,
    ) -> None:
        self.store = matrix.store.where
        self.feature_set = matrix.feature_set
        self.features = matrix.features
        self.k = at_most(options.k, train, queries, context)
        self.queries, self.train = len(queries), len(train)
        self.excluded = excluded
        store = matrix.store
        present = np.unique(store.samples.labels()[train]).tolist()
        self.labels = tuple(store.manifest.labels[label] for label in present)
        self._matrix, self._options, self._context = matrix, options, context
        self._rows = (queries, train)
        self._items = Items(store, matrix.feature_set, options.max_characters)
        self._template: Template | None = None
        if options.format == "prompts":
            refuse_no_texts(self._items, store)
            self._template = open_template(options.template)

    def __iter__(self) -> Iterator[Retrieved]:
        """Yield each query with its examples, in the order of the store's rows."""
        context = self._context
        context.reporter.begin("queries", self.queries)
        for found in near(self._matrix, *self._rows, self.k, context):
            for start in range(0, len(found.queries), AT_ONCE):
                context.stop_if_asked()
                yield from self._shown(found, slice(start, start + AT_ONCE))
                context.reporter.advance(len(found.queries[start : start + AT_ONCE]))
        context.reporter.end()
        self._items.say(context)

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield what a line of the result holds, for each query: examples, or the prompt."""
        for one in self:
            if self._template is None:
                yield one.to_json()
            else:
                examples = [example.item for example in one.examples]
                prompt = self._template.fill(self.labels, examples, one.query)
                yield {"id": one.query.id, "label": one.query.label, "prompt": prompt}

    def to_json(self) -> dict[str, Any]:
        """Return what is known of it without any query, JSON-ready."""
        return {
            "store": self.store,
            "feature_set": self.feature_set,
            "features": list(self.features),
            "split": self._options.split,
            "order": self._options.order,
            "k": self.k,
            "queries": self.queries,
            "train": self.train,
            "excluded": self.excluded,
            "labels": list(self.labels),
        }

    def write(self, file: str | Path, *, overwrite: bool = False) -> None:
        """Write all records into a file, a line of JSON each; it appears whole or not at all.

        Raises:
            UsageError: it is there already, and `overwrite` was not asked for.
        """
        path = Path(file)
        if path.exists() and not overwrite:
            raise UsageError(
                "the file is there already",
                where=path,
                expected="a new file",
                hint="--force replaces it",
            )

        def fill(temporary: Path) -> None:
            with temporary.open("w", encoding="utf-8") as lines:
                lines.writelines(json.dumps(record) + "\n" for record in self.records())

        publish(path, fill)

    def _shown(self, found: Near, part: slice) -> Iterator[Retrieved]:
        rows, similarities = found.rows[part], found.similarities[part]
        if self._options.order == "nearest-last":
            rows, similarities = rows[:, ::-1], similarities[:, ::-1]
        queries = found.queries[part]
        items = self._items.take(np.concatenate([queries, rows.ravel()]))
        for query, some, alike in zip(
            queries.tolist(), rows.tolist(), similarities.tolist(), strict=True
        ):
            examples = (Example(items[row], one) for row, one in zip(some, alike, strict=True))
            yield Retrieved(items[query], tuple(examples))


def retrieve(
    store: str | Path,
    options: RetrieveOptions = RetrieveOptions(),
    *,
    context: Context = DEFAULT,
) -> Retrieval:
    """Prepare to find the nearest labelled training samples of each row of a split.

    Nothing is found before the result is iterated. Neighbours are exact, by the cosine of the
    features: the blocks, each of length one, side by side, or the coordinates of a stored PCA.
    Examples are rows of the split "train" alone, and none is its own. Memory is bounded.

    Args:
        store: the store's directory.
        options: which rows, features and examples.
        context: its reporter is told what happens, its stop asked between blocks.

    Raises:
        UsageError: features, labels or splits are missing, the split is empty, or prompts are
            asked for of what is no text.
        MismatchError: the PCA was fitted on the queries.
    """
    opened = Store.open(store, keep_removed=options.keep_removed)
    queries = named_split(opened, options.split, SPLIT_HINT)
    train = named_split(opened, TRAIN, SPLIT_HINT)
    matrix = open_features(
        opened, options.features, pca=options.pca, feature_set=options.feature_set
    )
    labels, coverage = opened.samples.labels(), matrix.coverage()
    is_labelled = labels >= 0
    if not is_labelled[train].any():
        raise UsageError(
            "the training rows have no labels",
            where=opened.where,
            expected="class folders, or a manifest with a column `label`",
            hint=LABEL_HINT,
        )
    pool = np.unique(np.concatenate([queries, train]))
    needed = is_labelled | ~np.isin(np.arange(len(labels)), train)  # queries may have no label
    excluded = count_excluded(pool, needed, coverage)
    if options.split != TRAIN:
        refuse_leak(matrix, queries)
        refuse_seen(opened, matrix.arrays, queries)
    found = queries[coverage.usable[queries]]
    if not len(found):
        raise UsageError(
            f"no row of the split {options.split!r} has usable features",
            where=opened.where,
            found=counted(len(queries), "row"),
            hint=f"fungi status {quote(opened.where)} shows what is missing; fungi extract "
            "completes it",
        )
    examples = train[(is_labelled & coverage.usable)[train]]
    return Retrieval(matrix, options, found, examples, excluded, context)


def refuse_no_texts(items: Items, store: Store) -> None:
    """Refuse a store whose samples cannot stand in a prompt.

    Raises:
        UsageError: they are no texts.
    """
    if not items.are_texts:
        raise UsageError(
            "a prompt is made of texts",
            where=store.where,
            expected="a store of texts",
            found=f"a store of {store.modality.items}",
            hint=f"fungi retrieve {quote(store.where)} --format jsonl names the examples' files",
        )
