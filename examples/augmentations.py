"""What tensor augmentation does to a feature map, as a picture: `python examples/augmentations.py`.

Two photographs (they ship with scikit-learn) go through a DINOv2 ViT-S/14 once each. Their 16 x 16
patch tokens, 384 channels, are standardised and augmented; the first three principal components
of what comes out are shown as red, green and blue. Writes docs/augmentations.png.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_image
from sklearn.decomposition import PCA
from torch import Tensor

from fungistore.backbones.timm_vit.loading import load_timm_vit
from fungistore.demo.weights import dinov2_vits14_weights
from fungistore.loff.augment import shift_channels
from fungistore.loff.operations import operation_matrices
from fungistore.loff.options import NOISE, OPERATIONS
from fungistore.loff.resample import resample

MODEL = "vit_small_patch14_dinov2"
SIDE = 224
STRENGTHS = {"rotate": 0.25, "shear-x": 0.5, "shear-y": 0.5, "crop": 1.0, "scale": 1.0}
COLUMNS = 6
NEAR_ENDS = (1, 99)  # per cent; what lies outside is clipped in the picture


def main() -> None:
    """Write the picture to the file named on the command line, or to docs/."""
    default = Path(__file__).parents[1] / "docs" / "augmentations.png"
    destination = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    photos = [photograph("flower.jpg", 130), photograph("china.jpg", 60)]
    tokens = patch_tokens(photos)
    flat = tokens.flatten(0, 2)
    tokens = (tokens - flat.mean(dim=0)) / flat.std(dim=0)
    colours = PCA(3, random_state=0).fit(tokens.flatten(0, 2).numpy())
    panels = {"the image": np.asarray(photos[0])} | {
        name: in_colour(cells, tokens, colours) for name, cells in augmented(tokens).items()
    }
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(1.7 * COLUMNS, 1.95 * rows), layout="constrained")
    for axes in (grid := figure.subplots(rows, COLUMNS)).flat:
        axes.set_axis_off()
    for axes, (name, picture) in zip(grid.flat, panels.items(), strict=False):
        axes.imshow(picture)
        axes.set_title(name, fontsize=10)
    destination.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(destination, dpi=90)
    print(destination)


def photograph(name: str, left: int) -> Image.Image:
    """Return a square of a photograph, from `left` and as high as the photograph, at SIDE."""
    image = Image.fromarray(load_sample_image(name))
    square = image.crop((left, 0, left + image.height, image.height))
    return square.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def patch_tokens(photos: list[Image.Image]) -> Tensor:
    """Return the patch tokens [n, h, w, d] of square photographs."""
    backbone = load_timm_vit(MODEL, weights=dinov2_vits14_weights(), image_size=SIDE)
    mean, deviation = (torch.tensor(backbone.data_config[key]) for key in ("mean", "std"))
    pixels = torch.from_numpy(np.stack([np.asarray(photo) for photo in photos])) / 255
    with torch.inference_mode():
        pixels = ((pixels - mean) / deviation).permute(0, 3, 1, 2)
        return backbone.run((pixels,)).grid.tokens.clone()


def augmented(tokens: Tensor) -> dict[str, Tensor]:
    """Return the first feature map [h, w, d] after each augmentation, by name."""
    _, height, width, channels = tokens.shape
    first, second = tokens[:1], tokens[1:2]
    maps = {}
    for operation in OPERATIONS:
        strength = np.array([STRENGTHS.get(operation, 1.0)])
        matrix = operation_matrices(operation, strength, np.array([[0.5, 0.2]]), (height, width))
        maps[operation] = resample(first, torch.from_numpy(matrix[:, :2].astype(np.float32)))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(first.shape, generator=generator)
    shifts = torch.rand(1, channels, generator=generator) - 0.5
    box = torch.zeros(height, width, 1)
    box[3:11, 6:15] = 1
    maps[f"noise {NOISE}"] = first + NOISE * noise
    maps["noise 1"] = first + noise
    maps["brightness 0.5"] = shift_channels(first, shifts)
    maps["mixup"] = torch.lerp(first, second, 0.4)
    maps["cutmix"] = torch.lerp(first, second, box)
    return {name: cells[0] for name, cells in maps.items()}


def in_colour(cells: Tensor, reference: Tensor, colours: PCA) -> NDArray[np.float64]:
    """Return [h, w, 3] in [0, 1]; the range of colours is that of the maps as they were."""
    low, high = np.percentile(colours.transform(reference.flatten(0, 2).numpy()), NEAR_ENDS, axis=0)
    shown = colours.transform(cells.flatten(0, 1).numpy()).reshape(*cells.shape[:2], 3)
    return np.clip((shown - low) / (high - low), 0, 1)


if __name__ == "__main__":
    main()
