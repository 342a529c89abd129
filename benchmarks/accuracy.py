"""What each way to be faster does to accuracy: real DINOv2 weights, textile images and digits.

Every line extracts embeddings, KL and an objective of many views with one setting, and classifies
by 20 nearest neighbours, ten half-and-half splits (`fungi eval knn --holdout 0.5 --seeds 10`).
Cosines are the least to the first line's features and, in brackets, how many are below 0.999. The
rate is of the gradient feature named.

    python benchmarks/accuracy.py --per-class 100 --digits 30     # half an hour on two cores
    python benchmarks/accuracy.py --data textile --views dino simclr
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from fungistore import ExtractOptions, KnnOptions, Store, evaluate_knn, extract, open_features
from fungistore.demo.images import textile_subset
from fungistore.demo.weights import dinov2_vits14_weights

CLOSE = 0.999  # a cosine, asked of embeddings


@dataclass(frozen=True)
class Setting:
    """A way to extract: its name, and what it changes."""

    name: str
    dtype: str
    view_size: str = "model"
    compile: bool = False


SETTINGS = (
    Setting("float32", "float32"),
    Setting("bfloat16", "bfloat16"),
    Setting("int8, compiled", "int8", compile=True),
    Setting("float32, native", "float32", "native"),
    Setting("int8, compiled, native", "int8", "native", compile=True),
)


def main() -> None:
    """Print one Markdown table for each data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=("textile", "digits"), default=["textile"])
    parser.add_argument("--views", nargs="+", choices=("dino", "simclr"), default=["dino"])
    parser.add_argument("--settings", nargs="+", choices=[s.name for s in SETTINGS])
    parser.add_argument("--per-class", type=int, default=100, help="textile images")
    parser.add_argument("--digits", type=int, default=30, help="digits of each class")
    arguments = parser.parse_args()
    settings = [s for s in SETTINGS if s.name in (arguments.settings or [s.name])]
    with TemporaryDirectory() as directory:
        for data in arguments.data:
            folder = Path(directory) / data
            if data == "textile":
                textile_subset(arguments.per_class, folder)
            else:
                write_digits(arguments.digits, folder)
            for views in arguments.views:
                show(folder, views, settings)


def show(folder: Path, views: str, settings: list[Setting]) -> None:
    """Extract with every setting into a store of its own, and print what it gives."""
    print(f"\n{folder.name}, {sum(1 for _ in folder.rglob('*.*'))} images, {views}\n")
    print("| setting | images/s | least cosine: embedding | KL |", end="")
    print(
        f" {views} | kNN %: embedding | + KL | + KL + {views} |\n|---|---|---|---|---|---|---|---|"
    )
    reference: dict[str, np.ndarray] = {}
    for setting in settings:
        store = folder.with_name(f"{folder.name}-{views}-{setting.name}.fungi")
        options = ExtractOptions(
            model="vit_small_patch14_dinov2",
            weights=str(dinov2_vits14_weights()),
            image_size=224,
            features=("embeddings", "kl"),
            dtype=setting.dtype,
            view_size=setting.view_size,
            batch_size=16,
            compile=setting.compile,
        )
        extract(str(folder), store, options)
        rate = extract(str(folder), store, replace(options, features=(views,))).images_per_second
        found = {name: rows_of(store, name) for name in ("embeddings", "kl", views)}
        reference = reference or found
        cosines = [agreement(found[name], reference[name]) for name in found]
        print(f"| {setting.name} | {rate:.2f} | {' | '.join(cosines)} |", end="")
        print(f" {' | '.join(accuracies(store, views))} |", flush=True)


def rows_of(store: Path, feature: str) -> np.ndarray:
    """Return a feature's rows, as they are stored."""
    return open_features(Store.open(store), (feature,)).load()[1]


def agreement(one: np.ndarray, other: np.ndarray) -> str:
    """Return the smallest cosine between the rows of two matrices, and how many are not close."""
    first, second = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (one, other))
    cosines = (first * second).sum(axis=1)
    return f"{cosines.min():.4f} ({(cosines < CLOSE).sum()})"


def accuracies(store: Path, views: str) -> list[str]:
    """Return mean and deviation, in percent, of the nested combinations of features."""
    options = KnnOptions(
        features=("embeddings", "kl", views), combinations="nested", holdout=0.5, seeds=10
    )
    scores = evaluate_knn(store, options).scores
    return [
        f"{100 * score.metrics['accuracy']:.1f} ± {100 * score.metrics['accuracy_deviation']:.1f}"
        for score in scores
    ]


def write_digits(count: int, folder: Path) -> None:
    """Write scikit-learn's digits as images of 8 x 8 pixels, some of each class."""
    digits = load_digits()
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
        for number, pixels in enumerate(digits.images[digits.target == label][:count]):
            grey = Image.fromarray((pixels * (255 / 16)).astype(np.uint8))
            grey.convert("RGB").save(folder / str(label) / f"{number:03}.png")


if __name__ == "__main__":
    main()
