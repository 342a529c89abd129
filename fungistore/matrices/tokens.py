"""Features of patch tokens side by side: what memory banks hold, and what is looked up in them.

Each token's block is L2-normalised, weighed, and the blocks are put side by side and brought to
unit length together (FUNGI, section 3.3; its reference code). Grids come unit by unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote

import numpy as np
from numpy.typing import NDArray

from fungistore.backbones.transforms import SQUASH
from fungistore.errors import UsageError, refuse_text
from fungistore.fingerprint import Config
from fungistore.matrices.blocks import Vectors, normalize
from fungistore.store.commit import Commit
from fungistore.store.contents import Content, content_of
from fungistore.store.coverage import Coverage, coverage_of, read_rows
from fungistore.store.feature import LENGTHS, PATCHES, grid_path, kind_of, name_of
from fungistore.store.feature_sets import choose_feature_set
from fungistore.store.records import Records
from fungistore.store.removed import left_out
from fungistore.store.samples import Rows
from fungistore.store.store import Store
from fungistore.store.units import UnitArray

STREAM_BYTES = 64_000_000  # of float32 tokens that are read at once; one image at least
MOST_CELL = 255  # whose pixels 16 bits can count
CELL = 16  # pixels a side that a token stands for, of imported grids whose images are not known


class TokenMatrix:
    """Grids of tokens of one feature set as unit vectors [rows, h, w, dim]; use `open_tokens`.

    Args:
        store: the store.
        feature_set: name of the feature set.
        arrays: of each feature, in their order.
        weights: of each feature beside the others.
        centre: subtracted from patch tokens, place by place, before all else: [h, w, D].

    Attributes:
        features: names of the blocks, such as ("patches", "patches/simclr").
    """

    def __init__(
        self,
        store: Store,
        feature_set: str,
        arrays: Mapping[str, UnitArray],
        weights: tuple[float, ...],
        centre: Vectors | None = None,
    ) -> None:
        self.store = store
        self.feature_set = feature_set
        self.arrays = dict(arrays)
        self.features = tuple(arrays)
        self.weights = weights
        self.centre = centre
        self.records = Records(arrays.values())

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        _, height, width, _ = next(iter(self.arrays.values())).array.shape
        return int(height), int(width)

    @property
    def dim(self) -> int:
        """Width of a token's vector."""
        return sum(int(array.array.shape[3]) for array in self.arrays.values())

    @property
    def name(self) -> str:
        """The features in one word."""
        return "+".join(self.features)

    @property
    def rows(self) -> int:
        """Rows that all arrays have room for."""
        return min(array.rows for array in self.arrays.values())

    @property
    def unit_rows(self) -> int:
        """Rows of a unit."""
        return next(iter(self.arrays.values())).unit_rows

    @property
    def fingerprints(self) -> dict[str, str]:
        """What the arrays were made with, by their names."""
        setups = self.store.setups
        return {one.name: setups.reference(one.fingerprint) for one in self.arrays.values()}

    @property
    def cell(self) -> int:
        """Side of the square of the model's input that a token stands for, in pixels."""
        config = self.store.setups.config(next(iter(self.arrays.values())).fingerprint)
        size = config.get("backbone", {}).get("image_size")
        return CELL if size is None else min(max(1, int(size) // self.shape[0]), MOST_CELL)

    def contents_of(self, rows: Rows) -> dict[str, Content]:
        """Return what the units with these rows hold, by array."""
        return {
            one.name: content_of(one, rows, self.records.of(one.name))
            for one in self.arrays.values()
        }

    def coverage(self) -> Coverage:
        """Tell which rows can be used."""
        samples = len(self.store.samples)
        return coverage_of(self.arrays.values(), self.records, samples, left_out(self.store))

    def committed(self, unit: int) -> Commit | None:
        """Return the record of the array that has the fewest rows of a unit, None without any."""
        commits = [self.records.of(array.name).get(unit) for array in self.arrays.values()]
        there = [commit for commit in commits if commit is not None]
        complete = len(there) == len(commits)
        return min(there, key=lambda commit: commit.rows) if complete else None

    def joined(self, blocks: Mapping[str, NDArray[np.floating]]) -> Vectors:
        """Return grids of each feature [n, h, w, D] as unit vectors [n, h, w, dim]; NaN stays."""
        parts = []
        with np.errstate(invalid="ignore"):
            for name, weight in zip(self.features, self.weights, strict=True):
                part = np.array(blocks[name], np.float32)
                if name == PATCHES and self.centre is not None:
                    part -= self.centre
                flat = part.reshape(-1, part.shape[-1])
                normalize(flat)
                flat *= np.float32(weight)
                parts.append(part)
            found = np.concatenate(parts, axis=-1)
            if self.weights != (1.0,):
                normalize(found.reshape(-1, found.shape[-1]))
        return found

    def read(self, start: int, stop: int) -> Vectors:
        """Return rows [start, stop) as unit vectors.

        Raises:
            StoreError: a chunk is damaged.
        """
        return self.joined({n: read_rows(array, start, stop) for n, array in self.arrays.items()})

    def stream(self, rows: Rows) -> Iterator[tuple[Rows, Vectors]]:
        """Yield (row numbers [n], tokens [n, h, w, dim]) of ascending rows, a few at a time."""
        height, width = self.shape
        most = max(1, STREAM_BYTES // (4 * height * width * self.dim))
        start = 0
        while start < len(rows):
            unit = rows[start] // self.unit_rows
            stop = start + 1
            while stop < len(rows) and stop - start < most and rows[stop] // self.unit_rows == unit:
                stop += 1
            wanted = rows[start:stop]
            first, last = int(wanted[0]), int(wanted[-1]) + 1
            if last - first <= 2 * len(wanted):
                yield wanted, self.read(first, last)[wanted - first]
            else:
                yield wanted, np.concatenate([self.read(int(r), int(r) + 1) for r in wanted])
            start = stop


def open_tokens(
    store: str | Path | Store,
    features: Sequence[str] | None = None,
    *,
    feature_set: str | None = None,
    weights: Sequence[float] | None = None,
    centre: Vectors | None = None,
) -> TokenMatrix:
    """Choose features of patch tokens.

    Args:
        store: the store, or its place.
        features: of "patches", "patches/simclr", ...; default: all that are there.
        feature_set: may be left out where there is one.
        weights: of each feature, in the order that these are asked for; default: equal ones.
        centre: subtracted from patch tokens, place by place: [h, w, D].

    Raises:
        UsageError: there are no such features, or they do not show whole images.
    """
    store = Store.open(store)
    refuse_text("features", features)
    chosen = choose_feature_set(store, feature_set)
    arrays = store.arrays(chosen)
    there = [name_of(path) for path in arrays if kind_of(path) == "grid"]
    there.sort(key=lambda name: (name != PATCHES, name))
    asked = list(dict.fromkeys(features or there))
    unknown = [name for name in asked if name not in there]
    if unknown or not asked:
        raise UsageError(
            f"no such feature of patches: {', '.join(unknown)}" if unknown else "no patch tokens",
            where=f"feature set {chosen!r} of {store.where}",
            expected=", ".join(there) or "none was extracted yet",
            hint=f"fungi extract SOURCE {quote(store.where)} --features patches,patches/simclr",
        )
    given = tuple(map(float, weights or (1.0,) * len(asked)))
    if len(given) != len(asked) or not all(0 < one < float("inf") for one in given):
        raise UsageError(
            "each feature has one weight",
            where="--block-weights",
            expected=f"{len(asked)} numbers above 0, for {', '.join(asked)}",
            found=", ".join(map(str, given)),
        )
    pairs = sorted(zip(asked, given, strict=True), key=lambda pair: pair[0] != PATCHES)
    asked, given = [name for name, _ in pairs], tuple(weight for _, weight in pairs)
    found = {name: arrays[grid_path(name)] for name in asked}
    for array in found.values():
        _refuse_cropped(store, array)
    if LENGTHS + PATCHES in arrays or any(array.array.ndim != 4 for array in found.values()):
        raise UsageError(
            "the tokens are no grids of one shape",
            where=f"feature set {chosen!r} of {store.where}",
            expected="patch tokens of images",
            hint="fungi extract makes grids; fungi import --grid folds tokens in sequence",
        )
    return TokenMatrix(store, chosen, found, given, centre)


def _refuse_cropped(store: Store, array: UnitArray) -> None:
    backbone: Config = store.setups.config(array.fingerprint).get("backbone", {})
    transform = backbone.get("transform")
    known = transform if isinstance(transform, dict) else {}
    # some models squeeze images, and crop them all the same
    is_whole = known.get("crop_mode") == SQUASH and known.get("crop_pct", 1) == 1
    if not backbone or is_whole:
        return
    raise UsageError(
        "the patch tokens do not show whole images, so that masks do not fit them",
        where=array.name,
        expected="tokens of images that are squeezed into the model's input",
        found="a transform that crops",
        hint=f"fungi extract SOURCE {quote(store.where)} --crop whole --feature-set whole ...",
    )
