"""What an export and an import are asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from annotated_types import Ge, Predicate

from fungistore.choices import StorageDtype
from fungistore.headings import STORAGE
from fungistore.matrices.choices import FeatureChoice
from fungistore.names import PlainName
from fungistore.settings import PowerOfTwo, Setting, Settings
from fungistore.type_words import Words

Format = Literal["npy", "parquet", "hdf5"]
ImportFormat = Literal["npy", "parquet", "hdf5", "zarr"]
FORMATS: tuple[Format, ...] = get_args(Format)
IMPORT_FORMATS: tuple[ImportFormat, ...] = get_args(ImportFormat)
TOKENS = "Patch tokens"
GRID = re.compile(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})")
Grid = Annotated[
    str,
    Predicate(lambda text: text == "auto" or GRID.fullmatch(text) is not None),
    Words("auto, or rows x columns such as 16x16"),
]


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
            "embeddings, kl, ..., or patches.",
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
            "Data set or column, or a pattern of columns: 'f*'.",
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
    format: Annotated[ImportFormat | None, Setting("Of the files.", default="by the suffix")] = None
    grid: Annotated[
        Grid | None,
        Setting(
            "Fold tokens in sequence, row by row; auto: a square.",
            default="as in the file",
            metavar="[auto|HxW]",
            heading=TOKENS,
        ),
    ] = None
    prefix_tokens: Annotated[
        Annotated[int, Ge(0)],
        Setting("Tokens in front to drop: class, registers.", metavar="N", heading=TOKENS),
    ] = 0
    channels: Annotated[
        Literal["first", "last"] | None,
        Setting("Where a token's numbers are.", default="last", heading=TOKENS),
    ] = None
    unit_rows: Annotated[
        PowerOfTwo | None,
        Setting(
            "Rows that are committed at once, a power of two.",
            default="from a row's size",
            heading=STORAGE,
        ),
    ] = None
    shard_units: Annotated[
        PowerOfTwo | None,
        Setting(
            "Chunks of --unit-rows in one file (a shard), committed at once.",
            default="1, or as the feature set has",
            heading=STORAGE,
        ),
    ] = None
    storage_dtype: Annotated[
        StorageDtype | None,
        Setting(
            "Of the values.",
            default="float16 of patches, else nearest to the file's",
            heading=STORAGE,
        ),
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
