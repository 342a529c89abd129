"""What an import says that it did."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ImportResult:
    """What an import did.

    Attributes:
        store: the store's directory.
        feature_set: name of the feature set.
        feature: what the rows are in it.
        rows: rows of the files.
        dim: width of the vectors, or of a token.
        shape: of a row in the store.
        storage_dtype: their type in the store.
        samples: samples of the store.
        matched: samples that have a row now.
        unknown: rows that were skipped, since the store does not know their ids.
        nan_rows: of the matched, those with a NaN.
        inf_rows: of the matched, those with an infinity.
        zero_rows: of the matched, those of zeros.
        unusable: of the matched, those with NaN, infinities or nothing but zeros; at least, where
            some have NaN and others infinities.
        units_done: units committed in all.
        units_computed: units committed by this run.
        fingerprint: of the setup.
    """

    store: str
    feature_set: str
    feature: str
    rows: int
    dim: int
    shape: tuple[int, ...]
    storage_dtype: str
    samples: int
    matched: int
    unknown: int
    nan_rows: int
    inf_rows: int
    zero_rows: int
    unusable: int
    units_done: int
    units_computed: int
    fingerprint: str

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        document = asdict(self)
        done, computed = document.pop("units_done"), document.pop("units_computed")
        return document | {"units": {"done": done, "total": done, "computed": computed}}
