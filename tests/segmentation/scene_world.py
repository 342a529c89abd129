"""Images of coloured rectangles, and masks that say what is where."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 220], [230, 230, 80]])
CLASSES = ("sky", "<b>tree</b>", "road", "car")
SPLITS = ("train",) * 6 + ("test",) * 4
SIDE = 64  # of the model's input, in pixels
VOID = 255  # of the files
HEIGHT, WIDTH = 40, 60


def write_scenes(folder: Path) -> Path:
    """Write a manifest of ten images of coloured rectangles, nine of them with masks."""
    random = np.random.default_rng(0)
    rows = []
    for number, split in enumerate(SPLITS):
        coarse = random.integers(0, len(CLASSES), (4, 5))
        mask = np.repeat(np.repeat(coarse, HEIGHT // 4, 0), WIDTH // 5, 1).astype(np.uint8)
        pixels = COLOURS[mask] + random.integers(-20, 20, (HEIGHT, WIDTH, 3))
        mask[:3] = VOID
        (folder / split).mkdir(parents=True, exist_ok=True)
        name = f"{split}/{number:03d}.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name)
        known = "" if number == len(SPLITS) - 1 else f"{split}/{number:03d}-mask.png"
        if known:
            Image.fromarray(mask).save(folder / known)
        rows.append((name, name, split, known))
    with (folder / "scenes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "id", "split", "mask"), *rows])
    return folder / "scenes.csv"
