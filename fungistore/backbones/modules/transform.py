"""Any callable from PIL images to tensors as the one deterministic view of an encoder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch import Tensor

from fungistore.errors import ImageError, UsageError
from fungistore.modalities.image.inference import MOST_ELONGATED, centre_of
from fungistore.modalities.image.pixels import Image, Statistics
from fungistore.modalities.views import DrawnBatch, ViewGroup, ViewRecipe
from fungistore.randomness import Stream

Transform = Callable[[Any], Tensor]
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


@dataclass(frozen=True)
class TransformedView:
    """The image as a transform gives it: float32 [3, height, width], normalised already.

    A transform that brings the short side to size first would make any memory of a line of pixels:
    of a very long image it gets the centre where that is what it keeps, else such are refused.

    Attributes:
        transform: from a PIL image to a tensor.
        side: of what it returns, in pixels; the longer one.
        crops_centre: whether it keeps a square of the image's centre alone.
    """

    transform: Transform
    side: int
    crops_centre: bool = False

    @property
    def groups(self) -> tuple[ViewGroup, ...]:
        """One view."""
        return (ViewGroup(1, self.side),)

    def on(self, device: torch.device) -> ViewRecipe:
        """Return itself: one view travels as it is."""
        return self

    def draw(self, item: Image, random: Stream) -> tuple[NDArray[np.float32]]:
        """Return the view of one image; nothing here is random.

        Raises:
            ImageError: the image is much longer than wide, or wider than long.
        """
        if self.crops_centre:
            item = centre_of(item)
        elif max(item.shape[:2]) > MOST_ELONGATED * min(item.shape[:2]):
            raise ImageError(
                f"an image of {item.shape[1]} x {item.shape[0]} pixels is too long for the "
                f"transform: up to {MOST_ELONGATED} times as long as wide is taken"
            )
        return (transformed(self.transform, item).numpy(),)

    def render(
        self, drawn: DrawnBatch, group: int, views: slice
    ) -> tuple[Float[Tensor, "b v 3 h w"]]:
        """Return the drawn view."""
        return (drawn[0][:, None][:, views],)


def transformed(transform: Transform, pixels: Image) -> Float[Tensor, "3 h w"]:
    """Return what a transform makes of an image.

    Raises:
        UsageError: it is no float tensor [3, height, width].
    """
    found: Any = transform(PILImage.fromarray(pixels))
    is_tensor = isinstance(found, Tensor)
    if is_tensor and found.ndim == 3 and len(found) == 3 and found.is_floating_point():
        return found.float().contiguous()
    said = f"{found.dtype} {list(found.shape)}" if is_tensor else type(found).__name__
    raise UsageError(
        "the transform does not return an image",
        expected="a floating-point tensor [3, height, width], normalised as the module wants it",
        found=said,
        hint="end it with ToTensor() and Normalize(mean, std)",
    )


def statistics_of(transform: object) -> Statistics | None:
    """Return mean and deviation that a transform of torchvision's kind normalises by."""
    for one in _steps(transform):
        mean, std = getattr(one, "mean", None), getattr(one, "std", None)
        try:
            found = tuple(map(float, mean)), tuple(map(float, std))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
        if len(found[0]) == len(found[1]) == 3:
            return found
    return None


def spelled(transform: object) -> str:
    """Return what a fingerprint knows of a transform: its words, without addresses in memory."""
    name = getattr(transform, "__qualname__", None)
    return _ADDRESS.sub("", name or repr(transform))


def _steps(transform: object) -> Iterator[object]:
    yield transform
    for one in getattr(transform, "transforms", ()):
        yield from _steps(one)
