"""The arrays that features make, of an encoder's widths alone: no weight is needed to tell."""

from __future__ import annotations

from typing import Protocol

from fungistore.extraction.options import ExtractOptions
from fungistore.store.feature import (
    EMBEDDINGS,
    GRADIENTS,
    LENGTHS,
    NORMS,
    OF_PATCHES,
    PATCH_GRADIENTS,
    PATCH_NORMS,
    PATCHES,
    Feature,
    objective_name,
)


class Widths(Protocol):
    """What of an encoder decides the shape of its features."""

    @property
    def embedding_dim(self) -> int:
        """Width of the embedding."""

    @property
    def token_dim(self) -> int:
        """Width of a token."""

    @property
    def token_shape(self) -> tuple[int, ...]:
        """Tokens along each axis."""

    @property
    def lengths_differ(self) -> bool:
        """Whether samples may have fewer tokens than that."""


def arrays_of(
    options: ExtractOptions, widths: Widths, gradient_dim: int, *, tells_lengths: bool = False
) -> list[Feature]:
    """Return the arrays that the features make, in the order of the features.

    Args:
        options: the features, how they are stored, and the objectives.
        widths: of the encoder.
        gradient_dim: of every gradient feature.
        tells_lengths: whether samples may be cut, so that their lengths are kept.
    """
    specs = []
    vectors = options.storage_dtype
    for feature in options.features:
        if feature == EMBEDDINGS:
            specs.append(Feature(EMBEDDINGS, (widths.embedding_dim,), vectors))
            if tells_lengths:
                specs.append(Feature(LENGTHS + EMBEDDINGS, (), "float32"))
        elif feature == PATCHES:
            cells = _cells(options, widths)
            specs.append(Feature(PATCHES, (*cells, widths.token_dim), "float16"))
            if widths.lengths_differ:
                specs.append(Feature(LENGTHS + PATCHES, (), "float32"))
        elif options.objectives[objective_name(feature)].needs.per_token:
            cells = _cells(options, widths)
            short = feature.removeprefix(OF_PATCHES)
            specs.append(Feature(PATCH_GRADIENTS + short, (*cells, gradient_dim), "float16"))
            specs.append(Feature(PATCH_NORMS + short, cells, "float32"))
        else:
            specs.append(Feature(GRADIENTS + feature, (gradient_dim,), vectors))
            specs.append(Feature(NORMS + feature, (), "float32"))
    return specs


def _cells(options: ExtractOptions, widths: Widths) -> tuple[int, ...]:
    return tuple(side // options.pool for side in widths.token_shape)
