"""The view recipe that an objective's request becomes, for an encoder and its modality."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from fungistore.backbones.encoder import Encoder
from fungistore.errors import UsageError
from fungistore.modalities.modality import find_modality
from fungistore.modalities.views import ViewRecipe
from fungistore.objectives.objective import Objective


@runtime_checkable
class OwnViews(Protocol):
    """A request that an objective brings with its own transform."""

    def recipe(self, encoder: Encoder, view_size: str | int) -> ViewRecipe:
        """Return its views for an encoder; raises UsageError where that cannot be."""


def recipe_of(objective: Objective, encoder: Encoder, view_size: str | int) -> ViewRecipe | None:
    """Return an objective's views, None for the one that embeddings have.

    Raises:
        UsageError: the encoder's modality has no such views.
    """
    request = objective.needs.views
    if request is None:
        return None
    if isinstance(request, OwnViews):
        return request.recipe(encoder, view_size)
    modality = find_modality(encoder.modality)
    recipe: ViewRecipe | None = modality.recipe(request, encoder, view_size)
    if recipe is None:
        raise UsageError(
            f"{objective.name} has no views of {modality.items}",
            where=f"--features {objective.name}",
            expected=f"an objective whose views can be made of {modality.items}",
            found=request,
            hint="kl needs no views of its own, and so works with every encoder",
        )
    return recipe
