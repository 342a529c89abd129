"""The spatial operations of TrivialAugment, carried to feature maps, as affine matrices.

A matrix maps a cell of the output to the place in the input that it is read from, in homogeneous
coordinates (x, y, 1). The unit is a cell, x grows to the right and y downwards, and the origin is
the centre of the grid: the centre of cell (row, column) of an h x w grid is at
(column - (w - 1) / 2, row - (h - 1) / 2). So a rotation is one in cells, whatever the grid's
shape, and `align_corners=False` is the same convention in torch's words.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

# Ranges of TrivialAugment's "wide" space (Mueller and Hutter, ICCV 2021, table 1).
SHEAR = 0.99  # cells a cell
ROTATION = math.radians(135)
TRANSLATION = 32 / 224  # of the grid's side: 32 pixels of an ImageNet image
# TrivialAugment neither scales nor crops: LOFF-TA does. The range of zoom is ours; the smallest
# crop has a quarter of the area, as the global crops of DINO (Caron et al., ICCV 2021).
ZOOM = 1.5
SMALLEST_CROP = 0.5  # of the grid's side

Matrices = Float[np.ndarray, "n 3 3"]


def operation_matrices(
    operation: str,
    strengths: Float[np.ndarray, " n"],
    anchors: Float[np.ndarray, "n 2"],
    grid: tuple[int, int],
) -> Matrices:
    """Return the matrices of one operation at several strengths.

    Args:
        operation: one of OPERATIONS.
        strengths: between -1 and 1, as a part of the operation's range; 0 changes nothing. Positive
            ones move the content right or down, lean it so, rotate it clockwise, or enlarge it. A
            crop has no sign, a flip no strength.
        anchors: place of a crop's window, between 0 (left, top) and 1.
        grid: (h, w) in cells.
    """
    height, width = grid
    matrices = np.tile(np.eye(3), (len(strengths), 1, 1))
    match operation:
        case "identity":
            pass
        case "hflip":
            matrices[:, 0, 0] = -1
        case "vflip":
            matrices[:, 1, 1] = -1
        case "translate-x":
            matrices[:, 0, 2] = -TRANSLATION * width * strengths
        case "translate-y":
            matrices[:, 1, 2] = -TRANSLATION * height * strengths
        case "shear-x":
            matrices[:, 0, 1] = -SHEAR * strengths
        case "shear-y":
            matrices[:, 1, 0] = -SHEAR * strengths
        case "rotate":
            cosine, sine = np.cos(ROTATION * strengths), np.sin(ROTATION * strengths)
            matrices[:, 0, 0] = matrices[:, 1, 1] = cosine
            matrices[:, 0, 1], matrices[:, 1, 0] = sine, -sine
        case "scale":
            matrices[:, 0, 0] = matrices[:, 1, 1] = ZOOM**-strengths
        case "crop":
            side = 1 - (1 - SMALLEST_CROP) * np.abs(strengths)
            matrices[:, 0, 0] = matrices[:, 1, 1] = side
            matrices[:, :2, 2] = (anchors - 0.5) * (1 - side)[:, None] * (width, height)
        case _:
            raise ValueError(f"unknown operation {operation!r}")
    return matrices
