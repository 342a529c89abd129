"""The patch tokens of a store, as an export reads them: as they are stored, never normalised."""

from __future__ import annotations

from fungistore.errors import UsageError
from fungistore.exchange.options import ExportOptions, Format
from fungistore.matrices.blocks import FeatureMatrix
from fungistore.store.feature import LENGTHS, PATCHES
from fungistore.store.feature_sets import choose_feature_set
from fungistore.store.store import Store


def open_stored_tokens(store: Store, kind: Format, options: ExportOptions) -> FeatureMatrix:
    """Return the patch tokens as the only block of a matrix, for its rows and records.

    Args:
        store: the store.
        kind: what they are written to.
        options: that ask for them.

    Raises:
        UsageError: there are none, other features were asked for too, or the file cannot hold them.
    """
    chosen = choose_feature_set(store, options.feature_set)
    arrays = store.arrays(chosen)
    array = arrays.get(PATCHES)
    where = f"feature set {chosen!r} of {store.where}"
    if array is None:
        raise UsageError(
            f"there are no {PATCHES}",
            where=where,
            expected=", ".join(arrays),
            hint=f"fungi extract with --features {PATCHES} adds them",
        )
    if options.features != (PATCHES,) or options.pca is not None:
        raise UsageError(
            f"{PATCHES} are no vectors, and go into a file of their own",
            where="--features",
            expected=f"{PATCHES} alone",
            found=", ".join(options.features or ()) + (", --pca" if options.pca else ""),
            hint=f"export twice, once with --features {PATCHES}",
        )
    if kind == "parquet":
        raise UsageError(
            f"a Parquet file holds vectors, and no {PATCHES}",
            where="FILE",
            expected="a name that ends in .npy or .h5",
            hint="choose .npy or .h5, or Store.dataset, which reads them where they are",
        )
    if LENGTHS + PATCHES in arrays:
        raise UsageError(
            "the rows have different numbers of tokens",
            where=where,
            expected="the same in every row, as of images",
            found=f"{LENGTHS}{PATCHES}, which says how many are real",
            hint=f"Store.dataset('{PATCHES}', '{LENGTHS}{PATCHES}') reads both",
        )
    return FeatureMatrix(store, chosen, (PATCHES,), (array,))
