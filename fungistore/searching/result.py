"""What a search says: neighbours by query, and the queries that could not be answered."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from fungistore.location import is_inline
from fungistore.markup import html_frame
from fungistore.text import beginning

ANSWERS_SHOWN = 10  # in a notebook
FRAME_PIXELS = 480
LINE_CHARACTERS = 80  # of a text


@dataclass(frozen=True)
class Found:
    """A sample of the store.

    Attributes:
        row: its row in the sample table.
        id: its id.
        label: name of its class, or None.
        split: its split, or None.
        root: directory that `uri` is relative to.
        uri: where its item is.
        text: the item itself where it is text that can be read; None of others.
    """

    row: int
    id: str
    label: str | None
    split: str | None
    root: str
    uri: str
    text: str | None = None

    @property
    def line(self) -> str | None:
        """The beginning of the text, on one line that cannot steer a terminal."""
        return None if self.text is None else beginning(self.text, LINE_CHARACTERS)


@dataclass(frozen=True)
class Neighbour:
    """One result: a sample, its rank from 1 on, and its distance from the query."""

    rank: int
    distance: float
    sample: Found


@dataclass(frozen=True)
class Answer:
    """The neighbours of one query, nearest first.

    Attributes:
        query: as it was given.
        kind: "sample" for a sample id, whose own row is left out; "text" for a description; else
            the modality, as "image".
        sample: the sample that the query is; None for an item that is none.
        root: directory that `uri` is relative to.
        uri: where the query's item is.
        neighbours: at most k; fewer where the index found no more.
    """

    query: str
    kind: str
    sample: Found | None
    root: str
    uri: str
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True)
class QueryFailure:
    """A query that could not be answered, and why."""

    query: str
    error: str
    message: str


@dataclass(frozen=True)
class SearchResult:
    """The answers to a batch of queries.

    Attributes:
        store: the store's directory.
        modality: what its samples are, such as "image".
        feature_set: name of the feature set.
        index: name of the index.
        factory: its faiss factory string.
        features: what it was built from.
        metric: "cosine" (distances are 1 - cosine) or "euclidean".
        vectors: vectors that were searched.
        excluded: rows that are not among them, their features being unusable.
        recall: recall@10 of the index, None where it was not measured.
        is_exact: whether every vector was compared.
        is_stale: whether rows of the index were made anew since, or are not there now.
        content: digest of the rows that the index was made from.
        k: neighbours asked for.
        answers: in the order of the queries.
        failed: queries without an answer.
    """

    store: str
    modality: str
    feature_set: str
    index: str
    factory: str
    features: tuple[str, ...]
    metric: str
    vectors: int
    excluded: int
    recall: float | None
    is_exact: bool
    is_stale: bool
    content: str
    k: int
    answers: tuple[Answer, ...]
    failed: tuple[QueryFailure, ...]

    def _repr_html_(self) -> str:
        from fungistore.searching.page import render_page  # reads and draws pictures

        few = replace(self, answers=self.answers[:ANSWERS_SHOWN])
        return html_frame(render_page(few), FRAME_PIXELS)

    def __repr__(self) -> str:
        lines = [
            f"  {_asked(one)}: "
            + ", ".join(f"{_named(o.sample)} ({o.distance:.4f})" for o in one.neighbours)
            for one in self.answers[:ANSWERS_SHOWN]
        ]
        more = len(self.answers) - len(lines)
        lines += [f"  and {more} more"] if more else []
        lines += [f"  {len(self.failed)} not answered"] if self.failed else []
        counts = f"{len(self.answers)} answers of {self.k}"
        return "\n".join([f"<SearchResult: {counts} by {self.index} in {self.store}>", *lines])

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; a neighbour's sample is spread into its own fields."""
        document = asdict(self)
        for answer in document["answers"]:
            answer["sample"] = answer["sample"] and _without_nothing(answer["sample"])
            answer["neighbours"] = [
                {key: value for key, value in neighbour.items() if key != "sample"}
                | _without_nothing(neighbour["sample"])
                for neighbour in answer["neighbours"]
            ]
        return document


def _asked(answer: Answer) -> str:
    return beginning(answer.query, LINE_CHARACTERS) if is_inline(answer.uri) else answer.query


def _named(sample: Found) -> str:
    return sample.id if sample.line is None else repr(sample.line)


def _without_nothing(sample: dict[str, Any]) -> dict[str, Any]:
    """Return a sample's fields; of one that is no text, without that."""
    return {key: value for key, value in sample.items() if key != "text" or value is not None}
