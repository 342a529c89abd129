"""A PCA inside an evaluation, of its training rows and nothing else; or a random projection."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations as subsets

from fungistore.evaluation.options import CombinationChoice, Combinations
from fungistore.fingerprint import Config
from fungistore.machine.context import Context
from fungistore.matrices.blocks import FeatureMatrix, Vectors, nested
from fungistore.pca.components import Pca, fit
from fungistore.pca.random_map import RandomMap
from fungistore.quantities import counted
from fungistore.store.samples import Rows


@dataclass(frozen=True)
class Reduction:
    """What vectors go through before they are classified.

    Attributes:
        map: None leaves them as they are.
        dim: their width afterwards.
        protocol: what was done, and if nothing although it was asked for, why.
    """

    map: Pca | RandomMap | None
    dim: int
    protocol: Config

    def __call__(self, vectors: Vectors) -> Vectors:
        """Return rows [n, D] as rows [n, dim]."""
        return self.map.transform(vectors) if self.map else vectors


def fit_reduction(
    matrix: FeatureMatrix,
    train: Rows,
    dim: int | None,
    context: Context,
    options: CombinationChoice,
    seed: int = 0,
) -> Reduction:
    """Fit a PCA to `dim` components on training rows, where that can be done.

    The paper's rule: only where there are more training rows and more columns than components. A
    random projection needs the columns alone, and differs with the seed.

    Args:
        matrix: the features.
        train: the rows to fit on.
        dim: components; None for no PCA.
        context: its reporter is told where there is none although it was asked for.
        options: whether a random projection stands in its place.
        seed: of that.
    """
    if dim is None:
        return Reduction(None, matrix.dim, {})
    if options.reduction == "random":
        return _random(matrix, dim, context, seed)
    if dim >= min(len(train), matrix.dim):
        reason = f"{counted(len(train), 'training row')} of {counted(matrix.dim, 'number')}"
        context.reporter.notice(
            f"{matrix.name}: no PCA to {dim} of {reason}; evaluated without one"
        )
        return Reduction(None, matrix.dim, {"pca": None, "pca_skipped": reason})
    pca = fit(matrix.features, (vectors for _, vectors in matrix.stream(train)), dim)
    return Reduction(pca, dim, {"pca": dim})


def _random(matrix: FeatureMatrix, dim: int, context: Context, seed: int) -> Reduction:
    if dim >= matrix.dim:
        reason = f"{matrix.dim} numbers"
        context.reporter.notice(
            f"{matrix.name}: no random projection to {dim} of {reason}; evaluated without one"
        )
        return Reduction(None, matrix.dim, {"random": None, "random_skipped": reason})
    drawn = RandomMap.draw(matrix.features, matrix.dim, dim, seed)
    return Reduction(drawn, dim, {"random": dim})


def combine(features: tuple[str, ...], how: Combinations) -> list[tuple[str, ...]]:
    """Return combinations of blocks, smaller ones first: one of all, nested ones, or every one."""
    if how == "one":
        return [features]
    if how == "nested":
        return nested(features)
    counts = range(1, len(features) + 1)
    return [subset for count in counts for subset in subsets(features, count)]


def called(features: tuple[str, ...], dim: int | None) -> str:
    """Return what a combination of blocks is called, with the width that a PCA was asked for."""
    return " + ".join(features) + (f" ({dim})" if dim else "")
