"""Crop and resize on the device: a whole batch of boxes as two small matrix products a crop.

Bicubic resampling is separable, and every output row (and column) is a fixed weighted sum of input
rows (columns). With those weights as matrices, a crop of any box is `R_y @ pixels @ R_x^T`, and
boxes of different shapes differ in nothing but their matrices.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, Integer, UInt8
from torch import Tensor

CUBIC = -0.5  # Pillow's and torchvision's antialiased bicubic kernel (Keys, 1981)
SUPPORT = 2  # half its width, in pixels of the coarser of the two grids


def resized_crops(
    pixels: UInt8[Tensor, "b 3 height width"], boxes: Integer[Tensor, "b v 4"], size: int
) -> Float[Tensor, "b v 3 s s"]:
    """Cut boxes out of images and resize them to squares: bicubic, antialiased, not rounded.

    Equals torchvision's antialiased `resized_crop` of float tensors, and Pillow's
    `crop(box).resize(...)` but for rounding: Pillow also rounds, and cuts off what overshoots,
    between its two passes. On photographs the two are within one grey level.

    Args:
        pixels: images, each in the upper left corner of its canvas.
        boxes: (left, top, right, bottom) in pixels; right and bottom exclusive.
        size: side of the result in pixels.

    Returns:
        float32 in [0, 1].
    """
    left, top, right, bottom = boxes.unbind(-1)
    height, width = int((bottom - top).max()), int((right - left).max())
    rows = _reach(top, height, pixels.shape[2])
    columns = _reach(left, width, pixels.shape[3])
    images = torch.arange(len(pixels), device=pixels.device)[:, None, None, None]
    channels_last = pixels.permute(0, 2, 3, 1)
    slabs = channels_last[images, rows[:, :, :, None], columns[:, :, None, :]]
    slabs = slabs.permute(0, 1, 4, 2, 3).float()
    down = resampling_matrix(bottom - top, size, height)[:, :, None]
    across = resampling_matrix(right - left, size, width)[:, :, None]
    return (down @ slabs @ across.transpose(-1, -2)).div_(255).clamp_(0, 1)


def resampling_matrix(
    lengths: Integer[Tensor, "b v"], size: int, extent: int
) -> Float[Tensor, "b v size extent"]:
    """Return the weights that resample the first `lengths` of `extent` pixels to `size` pixels."""
    scale = (lengths.double() / size)[:, :, None, None]
    centre = (torch.arange(size, device=lengths.device)[:, None] + 0.5) * scale
    pixel = torch.arange(extent, device=lengths.device)
    weights = _kernel((pixel + 0.5 - centre) / scale.clamp_min(1))
    weights = weights * (pixel < lengths[:, :, None, None])
    return (weights / weights.sum(-1, keepdim=True)).float()


def _kernel(distance: Float[Tensor, "b v s n"]) -> Float[Tensor, "b v s n"]:
    x = distance.abs()
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = CUBIC * (((x - 5) * x + 8) * x - 4)
    return torch.where(x < 1, near, torch.where(x < SUPPORT, far, 0))


def _reach(start: Int[Tensor, "b v"], count: int, extent: int) -> Int[Tensor, "b v n"]:
    """Return `count` positions from each start on; what lies outside the canvas weighs nothing."""
    reach = start[:, :, None] + torch.arange(count, device=start.device)
    return reach.clamp_max(extent - 1)
