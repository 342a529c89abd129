"""What an objective is: parameters, views, heads and one loss a sample.

A new objective is one file with one frozen dataclass like the others here, named in
`fungistore.objectives.OBJECTIVES`; nothing else changes. Its fields are its parameters: they are
reachable from the command line (`--set NAME.FIELD=VALUE`), from a configuration file, and part of
the fingerprint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from fungistore.errors import UsageError
from fungistore.modalities.views import ViewRecipe

Heads = Mapping[str, nn.Linear]


@runtime_checkable
class Objective(Protocol):
    """A self-supervised loss whose per-sample gradient becomes a feature."""

    name: ClassVar[str]

    @property
    def normalization(self) -> str:
        """ "model" for the backbone's own pixel statistics, "imagenet" for the reference code's."""

    def views(self, image_size: int, patch_size: int, view_size: str | int) -> ViewRecipe | None:
        """Return the views, or None for the one that the embedding is made from."""

    def head_widths(self) -> Mapping[str, int]:
        """Return the output width of each projection head; every head is Linear(E, width)."""

    def losses(
        self,
        embeddings: Float[Tensor, "b v e"],
        heads: Heads,
        negatives: Float[Tensor, "n d"] | None,
    ) -> Float[Tensor, " b"]:
        """Return one loss a sample, differentiable in `embeddings`."""


@runtime_checkable
class ContrastiveObjective(Objective, Protocol):
    """An objective that also needs latents of other images, encoded once and frozen."""

    @property
    def negative_images(self) -> int:
        """How many images of the train split are encoded."""

    def latents(self, embeddings: Float[Tensor, "b v e"], heads: Heads) -> Float[Tensor, "b v d"]:
        """Return what `losses` takes as its negatives, for some images' views."""


def require(condition: bool, setting: str, expected: str, found: object) -> None:
    """Refuse a parameter that would make a loss meaningless; `condition` is False for NaN.

    Raises:
        UsageError: naming the setting, what it takes and what it got.
    """
    if not condition:
        raise UsageError(
            "a parameter of an objective cannot be used",
            where=f"--set {setting}={found}",
            expected=expected,
        )


def project(
    embeddings: Float[Tensor, "... e"], head: nn.Linear, *, normalize: bool
) -> Float[Tensor, "... d"]:
    """Apply a head, after L2-normalising its input where the objective asks for it."""
    if normalize:
        embeddings = nn.functional.normalize(embeddings, dim=-1)
    latents: Tensor = head(embeddings)
    return latents
