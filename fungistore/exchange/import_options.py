"""What an import is asked for, and what it says that it did."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fungistore.errors import UsageError
from fungistore.exchange.formats import Format
from fungistore.names import refuse_odd_name


@dataclass(frozen=True)
class ImportOptions:
    """What to import, and as what.

    Attributes:
        feature_set: name in the store; default: the exported feature set's, else "imported".
        feature: "embeddings", "kl", "dino", "simclr" or another word; default: the key if it is
            one of these four, else "embeddings".
        key: data set, column, or pattern of columns that holds the vectors.
        table: a .csv, .parquet or .txt file that says what the rows are.
        ids, labels, splits: columns or data sets to read instead of the usual ones.
        format: default: what each file's suffix says.
        unit_rows: rows of a unit, a power of two; default: the feature set's, else 16 MiB.
        storage_dtype: default: float16 for files of float16, else float32.
        unknown: rows whose id the store does not know are refused or skipped.
    """

    feature_set: str | None = None
    feature: str | None = None
    key: str | None = None
    table: Path | None = None
    ids: str | None = None
    labels: str | None = None
    splits: str | None = None
    format: Format | None = None
    unit_rows: int | None = None
    storage_dtype: Literal["float16", "float32"] | None = None
    unknown: Literal["refuse", "skip"] = "refuse"

    def __post_init__(self) -> None:
        choices: tuple[tuple[str, object, tuple[object, ...]], ...] = (
            ("--storage-dtype", self.storage_dtype, (None, "float16", "float32")),
            ("--unknown", self.unknown, ("refuse", "skip")),
        )
        for flag, value, allowed in choices:
            if value not in allowed:
                expected = " or ".join(str(choice) for choice in allowed if choice)
                raise UsageError("no such choice", where=flag, expected=expected, found=value)
        rows = self.unit_rows
        if rows is not None and (rows < 1 or rows & (rows - 1)):
            raise UsageError(
                "cannot use this value", where="--unit-rows", expected="a power of two", found=rows
            )
        for flag, name in (("--feature-set", self.feature_set), ("--as", self.feature)):
            if name is not None:
                refuse_odd_name(name, flag)


@dataclass(frozen=True)
class ImportResult:
    """What an import did.

    Attributes:
        store: the store's directory.
        feature_set: name of the feature set.
        feature: what the vectors are in it.
        rows: rows of the files.
        dim: width of the vectors.
        storage_dtype: their type in the store.
        samples: samples of the store.
        matched: samples that have a vector now.
        unknown: rows that were skipped, since the store does not know their ids.
        nan_rows: of the matched, those with a NaN.
        inf_rows: of the matched, those with an infinity.
        units_done: units committed in all.
        units_computed: units committed by this run.
        fingerprint: of the setup.
    """

    store: str
    feature_set: str
    feature: str
    rows: int
    dim: int
    storage_dtype: str
    samples: int
    matched: int
    unknown: int
    nan_rows: int
    inf_rows: int
    units_done: int
    units_computed: int
    fingerprint: str

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        document = asdict(self)
        done, computed = document.pop("units_done"), document.pop("units_computed")
        return document | {"units": {"done": done, "total": done, "computed": computed}}
