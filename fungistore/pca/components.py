"""Exact principal components from one pass over any number of rows, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from fungistore.matrices.products import gram, product
from fungistore.quantities import counted

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

ROWS_AT_ONCE = 4096  # converted to float64 at a time


@dataclass(frozen=True)
class Pca:
    """A fitted PCA without whitening.

    Attributes:
        features: the blocks that it takes, in their order.
        mean: [D] float64.
        components: [k, D] float64, orthonormal rows by falling variance. The entry of largest
            magnitude in each row is positive, as scikit-learn has it.
        explained_variance: [k] float64, unbiased (divided by n - 1).
        total_variance: of all D directions.
        n_samples: rows that it was fitted on.
    """

    features: tuple[str, ...]
    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    explained_variance: NDArray[np.float64]
    total_variance: float
    n_samples: int

    @property
    def explained_variance_ratio(self) -> NDArray[np.float64]:
        """The part of the variance that each component explains, [k]."""
        return self.explained_variance / max(self.total_variance, np.finfo(float).tiny)

    def transform(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the coordinates [n, k] of rows [n, D], in float32."""
        centred = vectors - self.mean.astype(np.float32)
        return product(centred, self.components.T.astype(np.float32))

    def to_sklearn(self) -> PCA:
        """Return the same PCA as scikit-learn's own, as if it had been fitted there."""
        from sklearn.decomposition import PCA

        dim, width = self.components.shape
        left = min(self.n_samples, width) - dim
        rest = max(self.total_variance - float(self.explained_variance.sum()), 0.0)
        pca = PCA(dim, svd_solver="full")
        pca.mean_, pca.components_ = self.mean, self.components
        pca.explained_variance_ = self.explained_variance
        pca.explained_variance_ratio_ = self.explained_variance_ratio
        pca.singular_values_ = np.sqrt(self.explained_variance * (self.n_samples - 1))
        pca.noise_variance_ = rest / left if left else 0.0
        pca.n_components_, pca.n_samples_, pca.n_features_in_ = dim, self.n_samples, width
        return pca


class Moments:
    """Running mean and scatter of rows of one width D, in float64; O(D^2) memory.

    Blocks are centred by their own mean before they are merged (Chan, Golub and LeVeque, 1979), so
    that nothing cancels when the mean is large.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = np.zeros(0)
        self.scatter = np.zeros((0, 0))

    def add(self, vectors: NDArray[np.float32]) -> None:
        """Take in rows [n, D]."""
        for start in range(0, len(vectors), ROWS_AT_ONCE):
            rows = vectors[start : start + ROWS_AT_ONCE].astype(np.float64)
            mean = rows.mean(axis=0)
            rows -= mean
            self.merge(len(rows), mean, gram(rows))

    def merge(self, count: int, mean: NDArray[np.float64], scatter: NDArray[np.float64]) -> None:
        """Take in the moments of other rows; the first ones are taken as they are."""
        if not self.count:
            self.count, self.mean, self.scatter = count, mean, scatter
            return
        total = self.count + count
        shift = mean - self.mean
        self.scatter += scatter
        self.scatter += np.outer(shift, shift * (self.count * count / total))
        self.mean += shift * (count / total)
        self.count = total


def largest_dim(count: int, width: int) -> int:
    """Return how many components `count` rows of `width` numbers determine."""
    return max(0, min(count - 1, width))


def fit(features: tuple[str, ...], blocks: Iterable[NDArray[np.float32]], dim: int) -> Pca:
    """Fit a PCA to rows that come in blocks [n, D], in one pass.

    Args:
        features: names of the feature blocks, kept with the result.
        blocks: the rows; at least one block.
        dim: components to keep, at most `largest_dim`.

    Raises:
        ValueError: the rows do not determine `dim` components.
    """
    moments = Moments()
    for block in blocks:
        moments.add(block)
    return fitted(features, moments, dim)


def fitted(features: tuple[str, ...], moments: Moments, dim: int) -> Pca:
    """Return the PCA of rows whose moments are known.

    Raises:
        ValueError: the rows do not determine `dim` components.
    """
    count, width = moments.count, len(moments.mean)
    if not 0 < dim <= largest_dim(count, width):
        raise ValueError(
            f"{counted(count, 'row')} of {counted(width, 'number')} cannot give "
            f"{counted(dim, 'component')}"
        )
    covariance = moments.scatter / (count - 1)
    values, vectors = eigh(covariance, subset_by_index=[width - dim, width - 1])
    components = np.ascontiguousarray(vectors.T[::-1])
    largest = np.abs(components).argmax(axis=1)
    components *= np.sign(components[np.arange(dim), largest])[:, None]
    return Pca(
        features=features,
        mean=moments.mean,
        components=components,
        explained_variance=np.maximum(values[::-1], 0.0),
        total_variance=float(np.trace(covariance)),
        n_samples=count,
    )
