"""Feature blocks of a store side by side: what PCA, indexes, search and evaluation read.

Each block of embeddings or gradients is L2-normalised, then blocks are concatenated in the order
embeddings, kl, dino, simclr (FUNGI, section 3.4); a PCA is read as it is. Memory is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fungistore.errors import MismatchError, UsageError, refuse_text
from fungistore.fingerprint import describe
from fungistore.markup import html_table
from fungistore.matrices.keys import spelled_out
from fungistore.store.commit import Commit
from fungistore.store.contents import Content, content_of
from fungistore.store.coverage import Coverage, coverage_of, read_rows
from fungistore.store.feature import OF_PATCHES, PCA, is_pca, name_of, vectors_of
from fungistore.store.feature_sets import choose_feature_set
from fungistore.store.records import Records
from fungistore.store.references import changed_references, explain_banks
from fungistore.store.removed import left_out
from fungistore.store.samples import Rows
from fungistore.store.store import Store
from fungistore.store.units import UnitArray

STREAM_BYTES = 32_000_000  # of float32 rows that are read at once, where units are smaller
SAFE_NORMS = (1e-15, 1e18)  # the squares of float32 numbers go from 1e-38 to 3e38

Vectors = NDArray[np.float32]


class FeatureMatrix:
    """Blocks of one feature set, read as one float32 matrix; use `open_features`.

    It behaves like an array of shape [rows, dim] that stays on the disk: `np.asarray(features)`,
    `len(features)`, `features[3]`, `features[10:20]`, `features[mask]`, `features[[5, 2]]` read
    what is asked for. Rows that cannot be used, such as of images that could not be read, are NaN;
    `coverage().usable` is the mask of the others, and `load()` gives these alone.

    Args:
        store: the store.
        feature_set: name of the feature set.
        features: names of the blocks in their order, such as ("embeddings", "kl"), or ("pca/x",).
        arrays: the array of each block.
        records: of the arrays, and of those that a PCA was made from; default: of the arrays.
    """

    def __init__(
        self,
        store: Store,
        feature_set: str,
        features: tuple[str, ...],
        arrays: tuple[UnitArray, ...],
        records: Records | None = None,
    ) -> None:
        self.store = store
        self.feature_set = feature_set
        self.features = features
        self.arrays = arrays
        self.records = Records(arrays) if records is None else records

    @property
    def name(self) -> str:
        """The features in one word, such as "embeddings+kl"."""
        return "+".join(self.features)

    @property
    def dim(self) -> int:
        """Width of a row."""
        return sum(int(array.array.shape[1]) for array in self.arrays)

    @property
    def rows(self) -> int:
        """Rows that all blocks have room for."""
        return min(array.rows for array in self.arrays)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and width, as of an array."""
        return self.rows, self.dim

    @property
    def ndim(self) -> int:
        """2: it is a matrix."""
        return 2

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """float32, whatever is stored."""
        return np.dtype(np.float32)

    def __len__(self) -> int:
        return self.rows

    def __repr__(self) -> str:
        where = f"feature set {self.feature_set!r} of {self.store.where}"
        return f"<FeatureMatrix {self.name}: {self.rows} x {self.dim} float32, {where}>"

    def _repr_html_(self) -> str:
        blocks = zip(self.features, self.arrays, strict=True)
        rows = [(name, int(a.array.shape[1]), a.array.dtype, a.codec) for name, a in blocks]
        title = f"{self.rows} x {self.dim} float32: {self.made_of}; feature set {self.feature_set}"
        return html_table(title, ("features", "width", "stored as", "codec"), rows)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Return all rows, as NumPy asks for them; those that cannot be used are NaN."""
        if copy is False:
            raise ValueError("features are read from files: an array of them is always a copy")
        return self.read(0, self.rows).astype(dtype or np.float32, copy=False)

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        """Return what NumPy's indexing does: of numbers, slices, lists, masks.

        Only the units that have some of the rows are read. Rows that cannot be used are NaN.
        """
        keys = spelled_out(key)
        at = next(i for i, one in enumerate(keys) if one is not None)
        wanted = np.arange(self.rows)[keys[at]]
        if len(keys) == 1:
            return self._at(wanted.reshape(-1)).reshape(*wanted.shape, self.dim)
        if isinstance(keys[at], slice):
            found, keys[at] = self._at(wanted), slice(None)
        else:  # numbers of rows, which may have those of columns as partners
            needed, places = np.unique(wanted, return_inverse=True)
            found, keys[at] = self._at(needed), places.reshape(wanted.shape)
        return found[tuple(keys)]

    def __iter__(self) -> Iterator[Vectors]:
        """Yield each row, reading them unit by unit."""
        for start in range(0, self.rows, self.chunk_rows):
            yield from self.read(start, min(start + self.chunk_rows, self.rows))

    def _at(self, rows: Rows) -> Vectors:
        """Return rows in any order, reading the stretch of each chunk that they are in."""
        if len(rows) and (np.diff(rows) == 1).all():
            return self.read(int(rows[0]), int(rows[-1]) + 1)
        vectors = np.empty((len(rows), self.dim), np.float32)
        order = np.argsort(rows, kind="stable")
        chunks = np.flatnonzero(np.diff(rows[order] // self.chunk_rows)) + 1
        for places in np.split(order, chunks) if len(rows) else ():
            first, last = int(rows[places[0]]), int(rows[places[-1]])
            vectors[places] = self.read(first, last + 1)[rows[places] - first]
        return vectors

    @property
    def unit_rows(self) -> int:
        """Rows of a unit, the same in all blocks."""
        return self.arrays[0].unit_rows

    @property
    def chunk_rows(self) -> int:
        """Rows that are decoded at once: of a unit, or of one chunk of its shard."""
        return max(array.chunk_rows for array in self.arrays)

    @property
    def stream_rows(self) -> int:
        """Rows, whole chunks, that `stream` reads at a time."""
        return max(1, STREAM_BYTES // (4 * self.dim * self.chunk_rows)) * self.chunk_rows

    @property
    def made_of(self) -> str:
        """What a row is, for a protocol."""
        return "stored PCA" if is_pca(self.features[0]) else "L2-normalised, concatenated"

    @property
    def fingerprints(self) -> dict[str, str]:
        """The reference to each block's array, by the array's name in the store.

        It is the fingerprint, and the digest of its bank where it was made with one.
        """
        setups = self.store.setups
        return {array.name: setups.reference(array.fingerprint) for array in self.arrays}

    @property
    def contents(self) -> dict[str, Content]:
        """What each block's array held when its records were first asked for, by its name."""
        return self.contents_of(None)

    def contents_of(self, rows: Rows | None) -> dict[str, Content]:
        """Return the same of the units that have some rows."""
        return {
            array.name: content_of(array, rows, self.records.of(array.name))
            for array in self.arrays
        }

    def subset(self, features: Sequence[str]) -> FeatureMatrix:
        """Return the matrix of those of the blocks that are named.

        Raises:
            UsageError: none is.
        """
        refuse_text("features", features)
        features = tuple(features)
        chosen = [i for i, name in enumerate(self.features) if name in features]
        if not chosen:
            raise UsageError(
                "no such features in this matrix",
                where="features",
                expected=", ".join(self.features),
                found=repr(features),
            )
        return FeatureMatrix(
            self.store,
            self.feature_set,
            tuple(self.features[i] for i in chosen),
            tuple(self.arrays[i] for i in chosen),
            self.records,
        )

    def read(self, start: int, stop: int) -> Vectors:
        """Return rows [start, stop) as [stop - start, dim]; a row that cannot be used is all NaN.

        Raises:
            StoreError: a chunk is damaged.
        """
        vectors = np.empty((stop - start, self.dim), np.float32)
        column = 0
        with np.errstate(invalid="ignore"):  # an infinity turns into NaN
            for name, array in zip(self.features, self.arrays, strict=True):
                block = vectors[:, column : column + int(array.array.shape[1])]
                block[:] = read_rows(array, start, stop)
                if not is_pca(name):
                    normalize(block)
                column += block.shape[1]
            vectors[~np.isfinite(vectors.sum(axis=1))] = np.nan
        return vectors

    def stream(self, rows: Sequence[int] | Rows | None = None) -> Iterator[tuple[Rows, Vectors]]:
        """Yield (row numbers [n], vectors [n, dim]) of usable rows, in order, chunk by chunk.

        Args:
            rows: ascending row numbers to choose from, or a mask; default: all. Chunks without one
                of them are not read.

        Raises:
            UsageError: the rows are not ascending.
        """
        rows = None if rows is None else _ascending(rows)
        step = self.stream_rows
        for start in range(0, self.rows, step):
            stop = min(start + step, self.rows)
            wanted = np.arange(start, stop)
            if rows is not None:
                wanted = rows[np.searchsorted(rows, start) : np.searchsorted(rows, stop)]
                if not len(wanted):
                    continue
            vectors = self.read(start, stop)
            if len(wanted) < stop - start:
                vectors = vectors[wanted - start]
            usable = ~np.isnan(vectors[:, 0])
            if usable.all():
                yield wanted, vectors
            elif usable.any():
                yield wanted[usable], vectors[usable]

    def load(self, rows: Sequence[int] | Rows | None = None) -> tuple[Rows, Vectors]:
        """Return the usable rows at once: their numbers [n] and vectors [n, dim].

        Args:
            rows: as `stream` takes them.

        Raises:
            UsageError: the rows are not ascending.
        """
        parts = list(self.stream(rows))
        if not parts:
            return np.zeros(0, np.int64), np.zeros((0, self.dim), np.float32)
        numbers, vectors = zip(*parts, strict=True)
        return np.concatenate(numbers), np.concatenate(vectors)

    def committed(self, unit: int) -> Commit | None:
        """Return the record of the block that has the fewest rows of a unit, None without any."""
        commits = [array.commit(unit) for array in self.arrays]
        present = [commit for commit in commits if commit is not None]
        complete = len(present) == len(commits)
        return min(present, key=lambda commit: commit.rows) if complete else None

    def coverage(self) -> Coverage:
        """Tell which rows can be used; reads only units whose records count unusable rows."""
        samples = len(self.store.samples)
        return coverage_of(self.arrays, self.records, samples, left_out(self.store))


def open_features(
    store: str | Path | Store,
    features: Sequence[str] | None = None,
    *,
    pca: str | None = None,
    feature_set: str | None = None,
) -> FeatureMatrix:
    """Choose blocks, or a PCA, of a feature set.

    Args:
        store: the store, or its place.
        features: of "embeddings", "kl", "dino", "simclr"; default: all that are there.
        pca: name of a PCA, instead of blocks.
        feature_set: name of the feature set; may be left out where there is one.

    Raises:
        UsageError: a name is unknown; the error lists what exists.
        MismatchError: the PCA is of features that were made anew since with other settings.
    """
    store = Store.open(store)
    refuse_text("features", features)
    features = tuple(features or ())
    chosen = choose_feature_set(store, feature_set)
    arrays = store.arrays(chosen)
    blocks = vectors_of(arrays)
    if pca is not None:
        if features:
            raise UsageError(
                "features and a PCA were both asked for",
                found=f"--features {','.join(features)} --pca {pca}",
                hint="a PCA has its own features: leave out --features",
            )
        names = [name_of(name) for name in arrays if is_pca(name)]
        if pca not in names:
            raise UsageError(
                f"there is no PCA {pca!r}",
                where=f"feature set {chosen!r} of {store.where}",
                expected=", ".join(names) or "none was fitted yet",
                hint=f"make one with: fungi pca {quote(store.where)} --name {pca}",
            )
        _refuse_other_inputs(store, arrays[PCA + pca], arrays.values())
        records = Records(arrays.values())
        return FeatureMatrix(store, chosen, (PCA + pca,), (arrays[PCA + pca],), records)
    unknown = [name for name in features if name not in blocks]
    if unknown or not blocks:
        raise UsageError(
            f"no such feature: {', '.join(unknown)}" if unknown else "there are no vector features",
            where=f"feature set {chosen!r} of {store.where}",
            expected=", ".join(blocks) or "some of embeddings, kl, dino, simclr",
            hint="features of patch tokens are no vectors of images: they are for banks, "
            "train-loff and Store.dataset"
            if any((name + "/").startswith(OF_PATCHES) for name in unknown)
            else "fungi extract with --features adds what is missing",
        )
    names = [name for name in blocks if not features or name in features]
    return FeatureMatrix(store, chosen, tuple(names), tuple(blocks[name] for name in names))


def _refuse_other_inputs(store: Store, pca: UnitArray, arrays: Iterable[UnitArray]) -> None:
    """Refuse a PCA of features that are others now; of those that are gone, it is all there is."""
    made = store.setups.config(pca.fingerprint).get("pca")
    stored = made.get("inputs") if isinstance(made, dict) else None
    if not isinstance(stored, dict):
        return  # a damaged setup, which fungi verify finds
    now = {a.name: store.setups.reference(a.fingerprint) for a in arrays if a.name in stored}
    fields = changed_references({name: stored[name] for name in now}, now)
    if fields:
        raise MismatchError(
            "the features that the PCA was fitted to were made anew since",
            where=pca.name,
            expected="the features that it was fitted to",
            found=describe(fields) + explain_banks(fields),
            hint="fit it again with fungi pca --restart, and index it with fungi index --restart",
        )


def _ascending(rows: Sequence[int] | Rows) -> Rows:
    numbers = np.asarray(rows)
    if numbers.dtype == bool:
        return np.flatnonzero(numbers)
    if (numbers[1:] < numbers[:-1]).any():
        raise UsageError(
            "rows are streamed in the order of the store",
            where="rows",
            expected="ascending row numbers, or a mask",
            hint="features[rows] takes any order",
        )
    return numbers.astype(np.int64, copy=False)


def nested(features: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the nested combinations: the first block, the first two, and so on."""
    return [tuple(features[:count]) for count in range(1, len(features) + 1)]


def normalize(block: NDArray[np.float32]) -> None:
    """Divide rows [n, d] by their Euclidean norm, in place; rows of zeros stay as they are.

    Rows whose squares have no room in float32, or are lost in it, are scaled first.
    """
    norms = np.sqrt(np.einsum("nd,nd->n", block, block))
    least, most = SAFE_NORMS
    odd = np.flatnonzero(~((norms >= least) & (norms <= most)))  # rows with a NaN too
    if len(odd):
        largest = np.abs(block[odd]).max(axis=1, initial=0)
        odd, largest = odd[largest > 0], largest[largest > 0]
        block[odd] /= largest[:, None]
        norms[odd] = np.sqrt(np.einsum("nd,nd->n", block[odd], block[odd]))
    norms[norms == 0] = 1
    block /= norms[:, None]
