"""The inputs of a store that could not be read, as people look for them: by path, with the reason.

A broken disk can make millions of them, so they are read and told some at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from fungistore.location import absolute_uri, is_inline, shortened, split_span, uri_to_path
from fungistore.sources.advice import common_reason
from fungistore.store.failures import Failure
from fungistore.store.masks import MASKS, skipped_masks
from fungistore.store.store import Store

AT_ONCE = 1000


@dataclass(frozen=True)
class FailedInput:
    """An input that could not be read, or a row whose file has changed since it was made.

    Attributes:
        row: of the store's samples.
        id: of the sample.
        path: of its file; of a member of a tar file, with its place in it. An item that stands in
            the store's own table has none: its id, and how it begins.
        error: class of the error; "ChangedFile" where the file has changed.
        message: what the reader said.
        feature_set: that lacks it; "masks" of a mask that could not be used.
    """

    row: int
    id: str
    path: str
    error: str
    message: str
    feature_set: str

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)


def failed_inputs(store: str | Path) -> Iterator[FailedInput]:
    """Return the inputs that could not be read, one after the other, by row and feature set.

    They are tried again by `extract` with `retry_failed`, or `fungi extract --retry-failed`. Masks
    that could not be used follow, as those of the feature set "masks"; `fungi annotate` tries those
    again whose files have changed.

    Args:
        store: the store's directory.

    Raises:
        UsageError: there is no store.
        StoreError: it is damaged.
    """
    opened = Store.open(store)
    masks = (
        Failure(one.row, one.uri, f"{MASKS}: {one.problem}", one.message, MASKS)
        for one in skipped_masks(opened.folder())
    )
    return described(opened, chain(opened.each_failure(), masks))


def common_cause(store: Store, failures: Iterable[FailedInput]) -> str | None:
    """Return why no file of some failures was found, if their paths, as they were given, tell."""
    rows = [row for one in failures if 0 <= (row := one.row) < len(store.samples)]
    samples = store.samples.take(rows)
    roots = {sample["root"] for sample in samples}
    uris = [split_span(sample["uri"])[0] for sample in samples]
    paths = [uri_to_path(uri) for uri in uris if not is_inline(uri)]
    return common_reason(roots.pop(), paths, store.modality) if len(roots) == 1 else None


def described(store: Store, failures: Iterable[Failure]) -> Iterator[FailedInput]:
    """Yield failures with the id and the path that their rows have in the table of samples."""
    waiting = iter(failures)
    while some := list(islice(waiting, AT_ONCE)):
        known = [failure.row for failure in some if 0 <= failure.row < len(store.samples)]
        samples = {row["row"]: row for row in store.samples.take(known)}
        for failure in some:
            sample = samples.get(failure.row)
            yield FailedInput(
                row=failure.row,
                id=sample["id"] if sample else "",
                path=_place(sample, failure.uri) if sample else "",
                error=failure.error,
                message=failure.message,
                feature_set=failure.feature_set,
            )


def _place(sample: Mapping[str, Any], uri: str) -> str:
    shown = shortened(absolute_uri(sample["root"], uri))
    return f"{sample['id']} {shown}" if is_inline(uri) else shown
