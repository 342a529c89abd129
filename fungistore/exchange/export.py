"""`fungi export`: features of a store, with ids and labels, in one file of another format."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fungistore.errors import FungiError, UsageError, did_you_mean
from fungistore.exchange.formats import (
    SAMPLE_SCHEMA,
    VECTORS,
    Block,
    Contents,
    Matrix,
    format_of,
    row_bytes,
    rows_at_once,
)
from fungistore.exchange.hdf5 import write_hdf5
from fungistore.exchange.narrowing import refuse_unfit
from fungistore.exchange.npy import sidecar_of, write_npy
from fungistore.exchange.options import FORMATS, ExportOptions, Format
from fungistore.exchange.parquet import write_parquet
from fungistore.exchange.stored_tokens import open_stored_tokens
from fungistore.fingerprint import Config
from fungistore.machine.context import DEFAULT, Context
from fungistore.matrices.blocks import FeatureMatrix, open_features
from fungistore.quantities import counted
from fungistore.store.coverage import Mask, read_rows
from fungistore.store.disk_errors import disk_errors_explained
from fungistore.store.feature import PATCHES
from fungistore.store.references import bank_of
from fungistore.store.removed import read_removed
from fungistore.store.store import Store


@dataclass(frozen=True)
class ExportResult:
    """What an export wrote.

    Attributes:
        store: the store's directory.
        feature_set: name of the feature set.
        features: the blocks, or the PCA.
        files: what was written: the file, and for .npy the table beside it.
        format: of the file.
        rows: rows of the file.
        widths: width of each matrix, or of its tokens, by its name in the file.
        shapes: shape of a row of each.
        dtype: of the numbers.
        unusable: rows that were left out, or kept as NaN, since a block has no finite values.
        fingerprints: of the arrays, by their name in the store, with the digests of their banks.
        contents: digests of the rows that these had; they are in the file too.
    """

    store: str
    feature_set: str
    features: tuple[str, ...]
    files: tuple[str, ...]
    format: Format
    rows: int
    widths: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]
    dtype: str
    unusable: int
    fingerprints: Mapping[str, str]
    contents: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)


@dataclass
class _Count:
    """Rows that went into the file, and rows that could not be used."""

    rows: int = field(default=0)
    unusable: int = field(default=0)


def export_features(
    store: str | Path,
    file: str | Path,
    options: ExportOptions = ExportOptions(),
    *,
    overwrite: bool = False,
    context: Context = DEFAULT,
) -> ExportResult:
    """Write features of a store into a .npy, Parquet or HDF5 file, in bounded memory.

    The file appears whole or not at all. Rows are in the order of the sample table.

    Args:
        store: the store's directory.
        file: what to write; for .npy, a table of the rows is written beside it.
        options: what to export; default: all features, normalised, float32.
        overwrite: replace a file that is there.
        context: its reporter is told what happens, its stop asked between blocks of rows; True ends
            the export, and nothing is written.

    Raises:
        UsageError: the features, the split or the file cannot be used.
        StoreError: the store is damaged.
        StoppedError: `context` asked for it.
        FungiError: a full disk.
    """
    path = Path(file)
    kind = format_of(path, options.format, FORMATS)
    files = (path, sidecar_of(path)) if kind == "npy" else (path,)
    _refuse_existing(files, overwrite=overwrite)
    opened = Store.open(store, keep_removed=True)  # what a row is of matters to whoever reads it
    is_tokens = PATCHES in (options.features or ())
    if is_tokens:
        matrix = open_stored_tokens(opened, kind, options)
        matrices = {PATCHES: matrix}
    else:
        matrix = open_features(
            opened, options.features, pca=options.pca, feature_set=options.feature_set
        )
        matrices = {VECTORS: matrix}
        if options.separate:
            matrices = {name: matrix.subset([name]) for name in matrix.features}
    selected = _selected(opened, options.split)
    usable = matrix.coverage().usable
    contents = Contents(
        shapes={name: _row_shape(part) for name, part in matrices.items()},
        dtype=options.dtype,
        label_names=opened.manifest.labels,
        provenance=_provenance(matrix, options, is_raw=options.raw or is_tokens),
    )
    if not (selected & usable).any() and not options.keep_unusable:
        raise UsageError(
            "no row has all of these features",
            where=opened.where,
            found=f"{counted(int(selected.sum()), 'row')}, none of them usable",
            hint="fungi extract adds what is missing; --keep-unusable exports rows of NaN",
        )
    chosen = selected if options.keep_unusable else selected & usable
    _refuse_full_disk(path, int(chosen.sum()), contents)
    count = _Count()
    blocks = _blocks(opened, matrices, selected, usable, options, count, context)
    writers: dict[Format, Callable[[Path, Contents, Iterable[Block]], None]] = {
        "npy": write_npy,
        "parquet": write_parquet,
        "hdf5": write_hdf5,
    }
    with disk_errors_explained(path, "nothing was written"):
        writers[kind](path, contents, blocks)
    if count.unusable:
        fate = "kept as NaN" if options.keep_unusable else "left out (--keep-unusable keeps such)"
        words = ("row without usable features is", "rows without usable features are")
        context.reporter.notice(f"{counted(count.unusable, *words)} {fate}")
    gone = read_removed(opened.folder())
    if removed := int(chosen[gone[gone < len(chosen)]].sum()):
        context.reporter.notice(
            f"{counted(removed, 'row is', 'rows are')} of files that are gone from the source: "
            "they are in the file, too"
        )
    return ExportResult(
        store=opened.where,
        feature_set=matrix.feature_set,
        features=matrix.features,
        files=tuple(map(str, files)),
        format=kind,
        rows=count.rows,
        widths={name: shape[-1] for name, shape in contents.shapes.items()},
        shapes=contents.shapes,
        dtype=options.dtype,
        unusable=count.unusable,
        fingerprints=matrix.fingerprints,
        contents=contents.provenance["contents"],
    )


def _row_shape(matrix: FeatureMatrix) -> tuple[int, ...]:
    """Return the shape of a row: of blocks side by side, or of a sample's patch tokens."""
    first = matrix.arrays[0].feature.row_shape
    return (matrix.dim,) if len(first) == 1 else first


def _refuse_existing(files: tuple[Path, ...], *, overwrite: bool) -> None:
    for path in files:
        if path.is_dir() or (path.exists() and not overwrite):
            raise UsageError(
                "there is something of that name already",
                where=path,
                expected="a new file",
                found="a directory" if path.is_dir() else "a file",
                hint="choose another name" if path.is_dir() else "--force replaces it",
            )


def _refuse_full_disk(path: Path, rows: int, contents: Contents) -> None:
    """Say at once what would fail late; HDF5 also breaks noisily where a disk fills up."""
    needed = rows * sum(row_bytes(s, np.dtype(contents.dtype)) for s in contents.shapes.values())
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise FungiError(
            "there is not enough room for the file",
            where=path,
            expected=f"{needed / 1e9:.3f} GB",
            found=f"{free / 1e9:.3f} GB free",
            hint="make room, or halve the file with --dtype float16",
        )


def _selected(store: Store, split: str | None) -> Mask:
    """Return a mask over the sample table of the rows to export."""
    if split is None:
        return np.ones(len(store.samples), bool)
    splits = store.samples.splits()
    if split not in splits:
        raise UsageError(
            f"there is no split {split!r}",
            where=store.where,
            expected=", ".join(splits) or "no --split: the store has no splits",
            hint=did_you_mean(split, splits) or "leave out --split for all rows",
        )
    mask = np.zeros(len(store.samples), bool)
    mask[splits[split]] = True
    return mask


def _provenance(matrix: FeatureMatrix, options: ExportOptions, *, is_raw: bool) -> Config:
    return {
        "version": version("fungistore"),
        "store": matrix.store.manifest.id,
        "feature_set": matrix.feature_set,
        "features": list(matrix.features),
        "separate": options.separate,
        "normalized": not is_raw,
        "split": options.split,
        "fingerprints": matrix.fingerprints,
        "contents": {name: content.digest for name, content in matrix.contents.items()},
        "banks": _banks(matrix),
    }


def _banks(matrix: FeatureMatrix) -> dict[str, str]:
    """Return the digest of what each block was compared with, by the array's name."""
    return {name: bank for name, one in matrix.fingerprints.items() if (bank := bank_of(one))}


def _blocks(
    store: Store,
    matrices: Mapping[str, FeatureMatrix],
    selected: Mask,
    usable: Mask,
    options: ExportOptions,
    count: _Count,
    context: Context,
) -> Iterator[Block]:
    """Yield the rows to write, some whole chunks at a time."""
    any_matrix = next(iter(matrices.values()))
    size = sum(row_bytes(_row_shape(one), np.dtype("float32")) for one in matrices.values())
    step = max(1, rows_at_once(size) // any_matrix.chunk_rows) * any_matrix.chunk_rows
    context.reporter.begin("rows", len(selected))
    for start, samples in _windows(store, step):
        context.stop_if_asked()
        window = slice(start, start + len(samples))
        wanted, finite = selected[window], usable[window]
        if wanted.any() and (options.keep_unusable or (wanted & finite).any()):
            vectors = {
                name: _read(matrix, start, start + len(samples), raw=options.raw)
                for name, matrix in matrices.items()
            }
            for block in vectors.values():  # a block of an uncommitted unit proves nothing
                block[~finite] = np.nan
                finite &= ~np.isnan(block.reshape(len(block), -1)[:, 0])
            keep = wanted if options.keep_unusable else wanted & finite
            yield Block(
                samples.filter(pa.array(keep)),
                {name: _cast(block[keep], options.dtype) for name, block in vectors.items()},
            )
            count.rows += int(keep.sum())
        count.unusable += int((wanted & ~finite).sum())
        context.reporter.advance(len(samples))
    context.reporter.end()


def _windows(store: Store, step: int) -> Iterator[tuple[int, pa.Table]]:
    """Yield (first row, samples as in SAMPLE_SCHEMA) of `step` rows at a time."""
    names = pa.array(store.manifest.labels, pa.string())
    waiting: list[pa.Table] = []
    first = row = 0
    for batch in store.samples.batches("id", "label", "split"):
        columns = {
            "row": pa.array(np.arange(row, row + len(batch))),
            "id": batch["id"],
            "label": batch["label"],
            "label_name": names.take(batch["label"]),
            "split": batch["split"].cast(pa.string()),
        }
        waiting.append(pa.table(columns, schema=SAMPLE_SCHEMA))
        row += len(batch)
        while row - first >= step:
            joined = pa.concat_tables(waiting)
            yield first, joined.slice(0, step)
            waiting, first = [joined.slice(step)], first + step
    if row > first:
        yield first, pa.concat_tables(waiting)


def _read(matrix: FeatureMatrix, start: int, stop: int, *, raw: bool) -> Matrix:
    """Return rows as float32 [stop - start, ...], NaN after the matrix's end; tokens are raw."""
    shape = _row_shape(matrix)
    vectors = np.full((stop - start, *shape), np.nan, np.float32)
    end = min(stop, matrix.rows)
    if end <= start:
        return vectors
    if not raw and len(shape) == 1:
        vectors[: end - start] = matrix.read(start, end)
        return vectors
    column = 0
    for array in matrix.arrays:
        block = read_rows(array, start, end)
        vectors[: end - start, column : column + block.shape[1]] = block
        column += block.shape[1]
    return vectors


def _cast(vectors: Matrix, dtype: str) -> Matrix:
    if np.dtype(dtype).itemsize < vectors.itemsize:
        hint = "--dtype float32, or leave out --raw"
        refuse_unfit(
            [vectors.reshape(len(vectors), -1)],
            dtype,
            flag=f"--dtype {dtype}",
            hint=hint,
            more_follow=True,
        )
    return vectors.astype(dtype)
