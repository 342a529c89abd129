"""What an export and an import are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from fungistore.choices import StorageDtype
from fungistore.headings import STORAGE
from fungistore.matrices.choices import FeatureChoice
from fungistore.names import PlainName
from fungistore.settings import PowerOfTwo, Setting, Settings

Format = Literal["npy", "parquet", "hdf5"]


@dataclass(frozen=True, kw_only=True)
class ExportOptions(FeatureChoice):
    """Settings of `fungi export`."""

    heading = "File"

    split: Annotated[
        str | None, Setting("Only rows of this split.", default="all rows", metavar="NAME")
    ] = None
    format: Annotated[Format | None, Setting("Of the file.", default="by the suffix")] = None
    dtype: Annotated[StorageDtype, Setting("Of the vectors in the file.")] = "float32"
    raw: Annotated[bool, Setting("Stored values, instead of blocks of length one.")] = False
    separate: Annotated[bool, Setting("A matrix a feature, named after it (not .npy).")] = False
    keep_unusable: Annotated[bool, Setting("Rows without features stay, as NaN.")] = False


@dataclass(frozen=True, kw_only=True)
class ImportOptions(Settings):
    """Settings of `fungi import`."""

    heading = "Files"

    feature_set: Annotated[
        PlainName | None,
        Setting(
            "Name in the store.",
            default="as exported, or imported",
            metavar="NAME",
            heading=STORAGE,
            names="feature set",
        ),
    ] = None
    feature: Annotated[
        PlainName | None,
        Setting(
            "embeddings, kl, dino, simclr, ...",
            flag="--as",
            default="by the key",
            metavar="NAME",
            heading=STORAGE,
            names="feature",
        ),
    ] = None
    key: Annotated[
        str | None,
        Setting(
            "Data set or column of the vectors, or a pattern of columns: 'f*'.",
            default="the only one that can be",
            metavar="NAME",
        ),
    ] = None
    table: Annotated[
        Path | None,
        Setting(
            "A .csv, .parquet or .txt (ids) that names the rows.",
            default="the files' own columns",
            metavar="FILE",
        ),
    ] = None
    ids: Annotated[str | None, Setting("Column of ids.", default="id, path", metavar="NAME")] = None
    labels: Annotated[
        str | None,
        Setting("Column of labels.", default="label_name, targets, label", metavar="NAME"),
    ] = None
    splits: Annotated[str | None, Setting("Column of splits.", default="split", metavar="NAME")] = (
        None
    )
    format: Annotated[Format | None, Setting("Of the files.", default="by the suffix")] = None
    unit_rows: Annotated[
        PowerOfTwo | None,
        Setting(
            "Rows that are committed at once, a power of two.",
            default="from a row's size",
            heading=STORAGE,
        ),
    ] = None
    storage_dtype: Annotated[
        StorageDtype | None,
        Setting("Of the vectors.", default="nearest to the file's", heading=STORAGE),
    ] = None
    order: Annotated[
        Literal["numbers", "given"],
        Setting(
            "With --table: files are numbered, and come in that order; or stay as they are given."
        ),
    ] = "numbers"
    unknown: Annotated[
        Literal["refuse", "skip"], Setting("Rows with ids that the store does not know.")
    ] = "refuse"
