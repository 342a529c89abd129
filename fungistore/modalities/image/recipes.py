"""The requests that images have views for, and the recipes that they become."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from fungistore.errors import UsageError
from fungistore.modalities.image.changed import ChangedViews
from fungistore.modalities.image.crops import RandomCrops, SizedFamily
from fungistore.modalities.image.masked_blocks import MaskedCrops
from fungistore.modalities.image.patchify import Patchify
from fungistore.modalities.image.pixels import NormalizedViews, PixelRecipe, Statistics
from fungistore.modalities.requests import Crops, MaskedBlocks, Windows
from fungistore.modalities.views import ViewRecipe

IMAGENET: Statistics = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


@runtime_checkable
class TakesPixels(Protocol):
    """What views of images need to know of an encoder."""

    @property
    def image_size(self) -> int:
        """Side of its square input in pixels."""

    @property
    def patch_size(self) -> int:
        """The sides of all its inputs are multiples of it."""

    @property
    def statistics(self) -> Statistics:
        """Mean and deviation of the pixels that it was trained on."""


@runtime_checkable
class MasksPatches(Protocol):
    """An encoder that takes pixels, and beside them which of their patches it must not see."""

    @property
    def masks_patches(self) -> bool:
        """Whether it does: its inputs may be (pixels [n, 3, s, s], bool [n, rows, columns])."""

    @property
    def mask_token(self) -> Tensor | None:
        """What its weights learnt to stand in their place."""


def image_recipe(request: object, encoder: Any, view_size: str | int) -> ViewRecipe | None:
    """Return the recipe that a request becomes for an encoder, None where images have no such.

    Args:
        request: one of `fungistore.modalities.requests`.
        encoder: one that takes pixels.
        view_size: "model", "native", or a side in pixels; see `side_for`.

    Raises:
        UsageError: the encoder does not say what pixels it takes.
    """
    if isinstance(request, MaskedBlocks):
        _refuse_unmaskable(encoder)
        whole = image_recipe(request.crops, encoder, view_size)
        assert whole is not None  # there are crops of every image
        is_learnt = encoder.mask_token is not None
        return MaskedCrops(whole, request, encoder.patch_size, is_learnt)
    if not isinstance(request, Crops | Windows):
        return None
    if not isinstance(encoder, TakesPixels):
        raise UsageError(
            "the model takes no views of images",
            where=f"--model {encoder.family}:{encoder.name}",
            expected="an encoder with an image_size, a patch_size and statistics",
            hint="leave out dino, simclr, deepcluster and ibot",
        )
    pixels: PixelRecipe
    if isinstance(request, Crops):
        pixels = _crops(request, encoder, view_size)
        if request.changes:
            pixels = ChangedViews(pixels, request.changes)
    else:
        pixels = _windows(request, encoder, view_size)
    own = request.normalization == "model"
    return NormalizedViews(pixels, encoder.statistics if own else IMAGENET)


def _refuse_unmaskable(encoder: Any) -> None:
    if not isinstance(encoder, MasksPatches) or not encoder.masks_patches:
        raise UsageError(
            "the model's patches cannot be masked",
            where=f"--model {encoder.family}:{encoder.name}",
            expected="a vision transformer of timm's, whose blocks keep the patches' tokens apart",
            hint="leave out ibot; kl, dino and simclr mask nothing",
        )


def _crops(request: Crops, encoder: TakesPixels, view_size: str | int) -> RandomCrops:
    """Return crops; at "native" size one gets the pixels of its family on average."""
    families = [
        SizedFamily(
            family.count,
            side_for(
                view_size,
                encoder.image_size,
                encoder.patch_size,
                extent=(sum(family.scale) / 2) ** 0.5,
            ),
            family.scale,
        )
        for family in request.families
    ]
    return RandomCrops(tuple(families))


def _windows(request: Windows, encoder: TakesPixels, view_size: str | int) -> Patchify:
    """Return windows, all of one size; at "native" size each keeps its own pixels."""
    side = side_for(
        view_size, encoder.image_size, encoder.patch_size, extent=request.base_patches**-0.5
    )
    return Patchify(encoder.image_size, request.base_patches, request.stride_scale, side)


def side_for(view_size: str | int, model_size: int, patch_size: int, extent: float) -> int:
    """Return the side in pixels at which a view is shown to the model.

    Args:
        view_size: "model" for the model's input size (the paper), "native" for as many pixels as
            the view would have if the whole image had the model's input size, or a side in pixels.
        model_size: the model's input size.
        patch_size: the side is rounded to a multiple of it.
        extent: the view's largest side as a fraction of the image's.
    """
    if view_size == "model":
        return model_size
    side = model_size * extent if view_size == "native" else float(view_size)
    return max(1, round(side / patch_size)) * patch_size
