"""Does the loader keep up? Training from the store against training from a tensor in place.

    python benchmarks/loff_feed.py --head deit-s --rounds 3

Both train the same head on the same shuffled batches of float16 tokens [64, 16, 16, 384] with the
default augmentation; one takes them from the store's chunk files (`--cache none`), the other from a
tensor that is on the training device already. Rounds alternate; a ratio is the median over rounds.
Feeding costs nothing where it is 1; it must be at least 0.95.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fungistore.loff.augment import augment, draw
from fungistore.loff.head import HeadSpec
from fungistore.loff.heads import build_head
from fungistore.loff.loader import PatchLoader
from fungistore.loff.options import Augmentation
from fungistore.store.local import LocalBackend
from fungistore.store.units import UnitArray
from fungistore.training.order import Shuffled

GRID, CHANNELS, CLASSES, BATCH = 16, 384, 100, 64
LEAST = 0.95


def main() -> None:
    """Print the steps a second of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--head", default="deit-s")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="steps of a round")
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    with tempfile.TemporaryDirectory() as directory:
        array = make_array(Path(directory), arguments.rows)
        order = Shuffled(np.arange(arguments.rows), seed=0)
        loader = PatchLoader(array, order, BATCH, device=device, cache="none")
        whole = torch.from_numpy(array.read(0, arguments.rows)).to(device)
        trainer = Training(arguments.head, device)

        def in_place(epoch: int) -> Iterator[Tensor]:
            for rows in np.split(order.draw(epoch), range(BATCH, arguments.rows, BATCH)):
                yield whole.index_select(0, torch.from_numpy(rows).to(device))

        def from_store(epoch: int) -> Iterator[Tensor]:
            return (batch.values for batch in loader.epoch(epoch))

        trainer.run(in_place(0), 1)
        ratios, speeds = [], []
        for number in range(arguments.rounds):
            one = trainer.run(in_place(number), arguments.steps)
            other = trainer.run(from_store(number), arguments.steps)
            ratios.append(other / one)
            speeds.append(other)
        ratio = statistics.median(ratios)
        print(f"{arguments.head}: {BATCH * statistics.median(speeds):.1f} images/s from the store")
        verdict = "holds" if ratio >= LEAST else "FAILS"
        print(f"of the speed in place: {ratio:.3f} (at least {LEAST}: {verdict})")


def make_array(root: Path, rows: int) -> UnitArray:
    """Write patch tensors of noise."""
    random = np.random.default_rng(0)
    array = UnitArray.create(
        LocalBackend(root),
        "set/patches",
        shape=(rows, GRID, GRID, CHANNELS),
        dtype="float16",
        unit_rows=256,
        codec="none",
        fingerprint="benchmark",
    )
    for unit in range(array.units):
        count = array.rows_of(unit)
        block = random.standard_normal((count, GRID, GRID, CHANNELS), np.float32)
        array.publish(unit, block.astype(np.float16), "benchmark", 0)
    return array


class Training:
    """A head and its optimiser."""

    def __init__(self, head: str, device: torch.device) -> None:
        self.device = device
        spec = HeadSpec(head, CHANNELS, CLASSES, (GRID, GRID))
        self.head = build_head(spec, seed=0).to(device).train()
        self.optimiser = torch.optim.AdamW(self.head.parameters(), lr=1e-4, fused=True)
        self.augmentation = Augmentation(kind="trivial")

    def run(self, batches: Iterator[Tensor], steps: int) -> float:
        """Train for some steps; returns steps a second, the first batch's reading included."""
        began = time.perf_counter()
        for step, tokens in zip(range(steps), batches, strict=False):
            self.step(tokens, step)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return steps / (time.perf_counter() - began)

    def step(self, tokens: Tensor, step: int) -> None:
        """Take one step, as training does."""
        targets = functional.one_hot(torch.zeros(len(tokens), dtype=torch.long), CLASSES)
        targets = targets.float().to(self.device)
        with torch.no_grad():
            tokens = self.head.standardise(tokens)
            shape = (len(tokens), GRID, GRID, CHANNELS)
            drawn = draw(self.augmentation, shape, seed=0, epoch=0, step=step)
            tokens, targets = augment(tokens, targets, drawn)
        is_cuda = self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=is_cuda):
            logits = self.head.classify(tokens)
        loss = functional.cross_entropy(logits.float(), targets)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()


if __name__ == "__main__":
    main()
