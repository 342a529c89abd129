"""Nearest neighbours from a store, with plain zarr and scikit-learn: what the gradients add.

    python examples/knn.py demo/textile.fungi

Each block is L2-normalised, blocks are put side by side, and every image is classified by the
majority of its 20 Euclidean neighbours in the other half of a stratified split (FUNGI, section 4,
without its PCA); mean and standard deviation over ten splits.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import zarr
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

NEIGHBOURS = 20
SPLITS = 10
BLOCKS = ("embeddings", "gradients/kl", "gradients/dino", "gradients/simclr")


def main() -> None:
    """Print one line for each nested combination of the blocks that the store has."""
    store = Path(sys.argv[1])
    labels = pq.read_table(store / "samples.parquet")["label"].to_numpy()
    features = zarr.open_group(store / "features.zarr", mode="r")
    for name in features.group_keys():
        group = features[name]
        present = [block for block in BLOCKS if block in group]
        blocks = [normalize(np.nan_to_num(group[block][:].astype(np.float32))) for block in present]
        rows = np.flatnonzero(np.isfinite(group[present[0]][:, 0]))  # committed and readable
        for count in range(1, len(blocks) + 1):
            scores = accuracies(np.hstack(blocks[:count])[rows], labels[rows])
            combination = " + ".join(block.removeprefix("gradients/") for block in present[:count])
            print(f"{name}  {combination:36} {scores.mean():.1%} +- {scores.std():.1%}")


def accuracies(vectors: NDArray[np.float32], labels: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the accuracy of each split."""
    splits = StratifiedShuffleSplit(SPLITS, test_size=0.5, random_state=0)
    classifier = KNeighborsClassifier(NEIGHBOURS)
    return np.array(
        [
            classifier.fit(vectors[train], labels[train]).score(vectors[test], labels[test])
            for train, test in splits.split(vectors, labels)
        ]
    )


if __name__ == "__main__":
    main()
