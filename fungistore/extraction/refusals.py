"""Refuses features that an encoder cannot have."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from fungistore.backbones.encoder import Encoder
from fungistore.errors import UsageError
from fungistore.store.feature import EMBEDDINGS, PATCHES


def refuse_gradients_of_nothing(backbone: Encoder, features: Sequence[str]) -> None:
    """Refuse gradient features of an encoder without a target layer."""
    if features and backbone.target is None:
        some = " or ".join(getattr(backbone, "candidates", ())) or "NAME"
        raise UsageError(
            "the model has no layer to differentiate, unless one is named",
            where=f"--features {','.join(features)}",
            expected=f"{EMBEDDINGS}, {PATCHES}",
            found=f"{backbone.family}:{backbone.name}",
            hint=f"--target-layer {some}: a linear layer or convolution that runs once a forward; "
            "the default is a last block's attention output projection, which the model has not",
        )


def refuse_placeless(backbone: Encoder) -> None:
    """Refuse features of tokens that are in no grid."""
    if not getattr(backbone, "has_places", True):
        raise UsageError(
            "the model's tokens have no places in a grid",
            where=f"--features {PATCHES}",
            expected=f"{EMBEDDINGS} and gradients",
            found=f"{backbone.family}:{backbone.name}",
            hint=f"leave out {PATCHES}, and objectives of tokens",
        )


def refuse_unlike(backbone: Encoder, per_token: Sequence[str]) -> None:
    """Refuse gradients of tokens whose number differs: padding would count among the positives."""
    if per_token and backbone.lengths_differ:
        raise UsageError(
            "gradients of tokens need grids of one shape",
            where=f"--features {','.join(per_token)}",
            expected="an encoder whose samples have equally many tokens",
            found=f"{backbone.family}:{backbone.name}",
        )


def refuse_uneven_cells(backbone: Encoder, pool: int) -> None:
    """Refuse cells that the grid of tokens cannot be divided into."""
    if any(side % pool for side in backbone.token_shape):
        sides = " x ".join(map(str, backbone.token_shape))
        common = gcd(*backbone.token_shape)
        divisors = [str(side) for side in range(1, common + 1) if common % side == 0]
        raise UsageError(
            "tokens cannot be pooled evenly",
            where=f"--pool {pool}",
            expected=f"a divisor of the sides of their grid, {sides}",
            hint=f"--pool {', '.join(divisors)}; or another size of the input",
        )
