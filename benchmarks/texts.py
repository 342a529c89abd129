"""What features of texts cost beside a bare forward of the same padded texts, in one run.

    python benchmarks/texts.py TABLE --model text:FOLDER [--max-length 64] [--texts 512] [--rounds 5]

The floor is the model's own forward under `torch.inference_mode`, in the same pieces: texts of one
padded length, as many at once as we take. Ours is from drawn texts to finished rows. Rounds are
interleaved; the ratio is of the medians, and one of 1.00 would be a feature for nothing.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable

import torch

from fungistore.extraction.batches import stack_drawn
from fungistore.extraction.freeze import throwaway_features
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.resolve import resolve
from fungistore.gradients.batching import forward_size
from fungistore.machine.cores import one_thread_each

FEATURES = (("embeddings",), ("kl",), ("embeddings", "kl"), ("simclr",))


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds that some work takes, and those of all cores together."""
    began, busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - busy


def main() -> None:
    """Print a line for each pooling and set of features."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("table")
    parser.add_argument("--model", required=True)
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--projection", default="binary")
    parser.add_argument("--features", default="")
    asked = parser.parse_args()
    csv.field_size_limit(1 << 30)
    with open(asked.table, encoding="utf-8", newline="") as file:
        texts = [row["text"] for row, _ in zip(csv.DictReader(file), range(asked.texts))]
    wanted = [tuple(asked.features.split("+"))] if asked.features else FEATURES
    for pooling in ("class", "mean"):
        for features in wanted:
            print(*measure(asked, texts, pooling, features), sep="  ", flush=True)


def measure(
    asked: argparse.Namespace, texts: list[str], pooling: str, features: tuple[str, ...]
) -> tuple[str, str]:
    """Return what was measured, and the ratio to the floor."""
    options = ExtractOptions(
        model=asked.model,
        pooling=pooling,
        max_length=asked.max_length,
        features=features,
        projection=asked.projection,
        dtype="float32",
    )
    resolved = resolve(options, {})
    maker, names = throwaway_features(resolved), frozenset(features)
    drawn = [maker.drawer.draw(text, str(n), names) for n, text in enumerate(texts)]
    batch = stack_drawn(drawn, by_shape=True)
    floor = resolve(options, {}).backbone.module
    (views,) = batch.keys()
    recipe = maker.drawer.recipe(views)

    def bare() -> None:
        with one_thread_each(torch.device("cpu")) as cores:
            list(cores.map(forward, pieces))

    def forward(piece: tuple[torch.Tensor, torch.Tensor]) -> None:
        with torch.inference_mode():
            floor(input_ids=piece[0], attention_mask=piece[1].long())

    pieces = []
    for group in batch[views]:
        ids, real = (t.flatten(0, 1) for t in recipe.render(group.arrays, 0, slice(None)))
        size = forward_size(torch.device("cpu"), ids.shape[1]) or len(ids)
        pieces += list(zip(ids.split(size), real.split(size), strict=True))
    bare()
    maker.compute(batch, names)
    rounds = [
        (timed(bare), timed(lambda: maker.compute(batch, names))) for _ in range(asked.rounds)
    ]
    floors, ours = zip(*rounds, strict=True)
    wall, busy = (
        statistics.median(one[clock] for one in floors)
        / statistics.median(one[clock] for one in ours)
        for clock in (0, 1)
    )
    rate = len(texts) / statistics.median(one[0] for one in ours)
    said = f"{pooling:<6} {'+'.join(features):<15} {rate:8.1f} texts/s"
    return said, f"{wall:.2f} of the bare forward's rate, {busy:.2f} by the cores' own clocks"


if __name__ == "__main__":
    main()
