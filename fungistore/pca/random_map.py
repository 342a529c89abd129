"""A random projection in the place of a PCA (FUNGI, table 21): drawn by a seed, fitted to nothing.

So it can leak nothing, needs no rows, and keeps lengths and distances on average, the better the
more numbers it gives (Johnson and Lindenstrauss, 1984).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fungistore.matrices.products import product
from fungistore.randomness import Stream

if TYPE_CHECKING:
    from sklearn.random_projection import GaussianRandomProjection


@dataclass(frozen=True)
class RandomMap:
    """A drawn projection.

    Attributes:
        features: the blocks that it takes, in their order.
        components: [k, D] float32, normal with a deviation of 1 / sqrt(k), so that the squared
            length of a row is kept on average.
    """

    features: tuple[str, ...]
    components: NDArray[np.float32]

    @classmethod
    def draw(cls, features: tuple[str, ...], width: int, dim: int, seed: int) -> RandomMap:
        """Draw one from `width` numbers to `dim`; equal arguments give equal ones."""
        stream = Stream(seed, "reduction", "gaussian")
        return cls(features, (stream.normal(dim, width) * dim**-0.5).astype(np.float32))

    def transform(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return rows [n, D] as rows [n, k], in float32."""
        return product(vectors, self.components.T)

    def to_sklearn(self) -> GaussianRandomProjection:
        """Return the same map as scikit-learn's own, as if it had been drawn there."""
        from sklearn.random_projection import GaussianRandomProjection

        dim, width = self.components.shape
        found = GaussianRandomProjection(dim)
        found.components_, found.n_components_, found.n_features_in_ = self.components, dim, width
        return found
