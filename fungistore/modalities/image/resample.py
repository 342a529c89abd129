"""Crop and resize on the device: a whole batch of boxes as two small matrix products a crop.

Bicubic resampling is separable, and every output row (and column) is a fixed weighted sum of input
rows (columns). With those weights as matrices, a crop of any box is `R_y @ pixels @ R_x^T`, and
boxes of different shapes differ in nothing but their matrices.
"""

from __future__ import annotations

from math import ceil

import numpy as np
import torch
from jaxtyping import Float, Int, Integer, UInt8
from torch import Tensor

CUBIC = -0.5  # Pillow's and torchvision's antialiased bicubic kernel (Keys, 1981)
SUPPORT = 2  # half its width, in pixels of the coarser of the two grids


def resized_crops(
    pixels: UInt8[Tensor, "b 3 height width"], boxes: Integer[np.ndarray, "b v 4"], size: int
) -> Float[Tensor, "b v 3 s s"]:
    """Cut boxes out of images and resize them to squares: bicubic, antialiased, not rounded.

    Equals torchvision's antialiased `resized_crop` of float tensors, and Pillow's
    `crop(box).resize(...)` but for rounding: Pillow also rounds, and cuts off what overshoots,
    between its two passes. On photographs the two are within one grey level.

    Args:
        pixels: images, each in the upper left corner of its canvas, on any device.
        boxes: (left, top, right, bottom) in pixels; right and bottom exclusive. The largest one
            sets shapes, so they come on the host: asking a GPU would wait for all of its work.
        size: side of the result in pixels.

    Returns:
        float32 in [0, 1], on the pixels' device.
    """
    width, height = (int(side) for side in (boxes[..., 2:] - boxes[..., :2]).max(axis=(0, 1)))
    placed = torch.from_numpy(boxes).to(pixels.device, non_blocking=True)
    left, top, right, bottom = placed.unbind(-1)
    rows = _reach(top, height, pixels.shape[2])
    columns = _reach(left, width, pixels.shape[3])
    images = torch.arange(len(pixels), device=pixels.device)[:, None, None, None]
    channels_last = pixels.permute(0, 2, 3, 1)
    slabs = channels_last[images, rows[:, :, :, None], columns[:, :, None, :]].float()
    down = resampling_matrix(bottom - top, size, height)
    across = resampling_matrix(right - left, size, width)
    squeezed = (down @ slabs.flatten(3)).unflatten(3, (width, 3)).permute(0, 1, 4, 2, 3)
    return (squeezed @ across.mT[:, :, None]).div_(255).clamp_(0, 1)


def resampling_matrix(
    lengths: Integer[Tensor, "b v"], size: int, extent: int
) -> Float[Tensor, "b v size extent"]:
    """Return the weights that resample the first `lengths` of `extent` pixels to `size` pixels.

    The kernel reaches few pixels of a row, so its weights are computed for those alone.
    """
    scale = (lengths.double() / size)[:, :, None, None]
    taps = min(extent, 2 * ceil(SUPPORT * max(1.0, extent / size)) + 1)
    centre = (torch.arange(size, device=lengths.device)[:, None] + 0.5) * scale
    reach = scale.clamp_min(1)
    first = (centre - SUPPORT * reach).floor().long().clamp(0, extent - taps)
    pixel = first + torch.arange(taps, device=lengths.device)
    weights = _kernel((pixel + 0.5 - centre) / reach)
    weights = weights * (pixel < lengths[:, :, None, None])
    weights = (weights / weights.sum(-1, keepdim=True)).float()
    matrix = weights.new_zeros(*lengths.shape, size, extent)
    return matrix.scatter_(-1, pixel, weights)


def _kernel(distance: Float[Tensor, "b v s n"]) -> Float[Tensor, "b v s n"]:
    x = distance.abs()
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = CUBIC * (((x - 5) * x + 8) * x - 4)
    return torch.where(x < 1, near, torch.where(x < SUPPORT, far, 0))


def _reach(start: Int[Tensor, "b v"], count: int, extent: int) -> Int[Tensor, "b v n"]:
    """Return `count` positions from each start on; what lies outside the canvas weighs nothing."""
    reach = start[:, :, None] + torch.arange(count, device=start.device)
    return reach.clamp_max(extent - 1)
