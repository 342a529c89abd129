"""What an import is going to do: everything that is decided before the store is touched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from fungistore.errors import UsageError
from fungistore.exchange.formats import FeatureFile, Matrix, format_of, refuse_rank
from fungistore.exchange.gather import Concatenated
from fungistore.exchange.hdf5 import Hdf5File
from fungistore.exchange.match import FileIds, read_ids
from fungistore.exchange.npy import NpyFile
from fungistore.exchange.options import IMPORT_FORMATS, ImportOptions
from fungistore.exchange.origin import joined_origin
from fungistore.exchange.parquet import ParquetVectors
from fungistore.exchange.samples import ImportedSamples, name_rows
from fungistore.exchange.table import ColumnNames
from fungistore.exchange.tokens import TokenLayout, read_layout, refuse_layout
from fungistore.exchange.zarr_folder import ZarrFolder
from fungistore.fingerprint import Config
from fungistore.machine.context import Context
from fungistore.names import out_of_order
from fungistore.store.feature import EMBEDDINGS, KNOWN, PATCHES, Feature, vector_path

FEATURE_SET = "imported"


@dataclass(frozen=True)
class Plan:
    """What is written where.

    Attributes:
        files: the rows.
        layout: what becomes of each; None: nothing, they are vectors.
        samples: who they are.
        ids: of the samples.
        feature_set: that the array is in.
        feature: what it is imported as, such as "kl".
        array: that is written.
        source: what it is made from, for the fingerprint.
        origin: what exported files were made with.
    """

    files: Concatenated
    layout: TokenLayout | None
    samples: ImportedSamples
    ids: FileIds
    feature_set: str
    feature: str
    array: Feature
    source: Config
    origin: Config

    def arranged(self, rows: Matrix) -> Matrix:
        """Return rows of the files as the store has them."""
        return rows if self.layout is None else self.layout.apply(rows)

    def flat_blocks(self, context: Context) -> Iterator[Matrix]:
        """Yield what is stored of all rows [n, values], some rows at a time."""
        for block in self.files.blocks(context):
            yield self.arranged(block).reshape(len(block), -1)


def make_plan(
    paths: list[Path], options: ImportOptions, opened: ExitStack, context: Context
) -> Plan:
    """Open the files, and decide.

    Args:
        paths: of the files.
        options: what to import.
        opened: closes the files in the end.
        context: its reporter is told what is made up.

    Raises:
        UsageError: a file, its ids or the options cannot be used.
        MismatchError: the files were compared with different banks.
    """
    if not paths:
        raise UsageError("no file was named", expected="at least one FILE before STORE")
    names = ColumnNames(options.ids, options.labels, options.splits)
    # a table of its own takes the columns that were named; the files then only have vectors
    own_names = names if options.table is None else ColumnNames()
    files: list[FeatureFile] = []
    for path in paths:
        files.append(opened.enter_context(closing(open_file(path, options, own_names))))
    if options.table is not None and options.order == "numbers":
        _refuse_text_order(paths)
    key, provenance = files[0].key, files[0].provenance
    exported = provenance.get("features") == [PATCHES]
    feature = options.feature or (
        PATCHES if exported or key == PATCHES else key if key in KNOWN else EMBEDDINGS
    )
    for file in files:
        refuse_rank(file, feature)
        if file.remark is not None:
            context.reporter.notice(file.remark)
    origin = joined_origin(files, context.reporter)
    joined = Concatenated(files)
    layout = None
    if feature == PATCHES:
        layout = read_layout(files[0].path, joined.row_shape, options)
    else:
        refuse_layout(options)
    samples = name_rows(files, options.table, names)
    for remark in [*samples.remarks(), *(layout.remarks() if layout else ())]:
        context.reporter.notice(remark)
    ids = read_ids(samples.ids, options.table or paths[0])
    is_half = layout is not None or joined.dtype.itemsize == 2
    source: Config = {
        "content": joined.content(),
        "key": key,
        "dtype": joined.dtype.name,
        "shape": [joined.rows, *joined.row_shape],
        "ids": ids.digest,
    }
    return Plan(
        files=joined,
        layout=layout,
        samples=samples,
        ids=ids,
        feature_set=options.feature_set or provenance.get("feature_set") or FEATURE_SET,
        feature=feature,
        array=Feature(
            vector_path(feature) if layout is None else PATCHES,
            joined.row_shape if layout is None else layout.row_shape,
            options.storage_dtype or ("float16" if is_half else "float32"),
        ),
        source=source if layout is None else source | layout.to_config(),
        origin=origin,
    )


def _refuse_text_order(paths: Sequence[Path]) -> None:
    """Refuse files whose rows a table names, in an order that is not that of their numbers."""
    wrong = out_of_order([str(path) for path in paths])
    if wrong is not None:
        raise UsageError(
            "the files are numbered, and not given in the order of their numbers",
            where=f"{wrong[0]} before {wrong[1]}",
            expected="the rows of the files in the order of the table",
            hint="list them by number, as $(ls -v FILES) does; --order given, if the table has "
            "their rows as they are given",
        )


def open_file(path: Path, options: ImportOptions, names: ColumnNames) -> FeatureFile:
    """Open a file of any format; `names` are the columns that say what its rows are.

    Raises:
        UsageError: it has no such features.
    """
    kind = format_of(path, options.format, IMPORT_FORMATS)
    if kind == "hdf5":
        return Hdf5File(path, options.key, options.feature, names)
    if kind == "zarr":
        return ZarrFolder(path, options.key, options.feature, names)
    if kind == "parquet":
        if options.feature == PATCHES:
            raise UsageError(
                "a Parquet file holds vectors alone",
                where=path,
                expected="patch tokens in .npy, .h5 or .zarr",
                hint="save them as [rows, h, w, width] or [rows, tokens, width] with np.save",
            )
        return ParquetVectors(path, options.key, names)
    if options.key is not None:
        raise UsageError(
            "a .npy file holds one array, which has no name",
            where="--key",
            found=options.key,
            hint="leave out --key",
        )
    return NpyFile(path, names)
