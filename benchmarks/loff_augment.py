"""Tensor augmentation against the training step that it is part of, paired, in one run.

    python benchmarks/loff_augment.py --rounds 3

The step is deit-s on float16 tokens [64, 16, 16, 384]: standardise, forward under autocast, loss,
backward, AdamW. Augmentation is everything between the batch and the head: drawing on the CPU,
copying what was drawn, and applying it. Rounds alternate, so that a machine whose speed drifts
favours neither; a ratio is the median over rounds. It must stay under 5 %.

The second table compares ways to resample the same batch: the one in use (`embedding_bag`),
`grid_sample` on a channels-first view, and one dense [256, 256] matrix a sample.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from fungistore.loff.augment import augment, draw
from fungistore.loff.head import HeadSpec
from fungistore.loff.heads import build_head
from fungistore.loff.options import Augmentation
from fungistore.loff.resample import resample

LIMIT = 0.05
CASES = {
    "default: trivial, noise": Augmentation(kind="trivial"),
    "trivial alone": Augmentation(kind="trivial", noise=0.0),
    "noise alone": Augmentation(kind="none", noise=0.1),
    "trivial, noise, brightness": Augmentation(kind="trivial", brightness=0.2),
    "all: and mixup, cutmix": Augmentation(kind="trivial", brightness=0.2, mixup=0.2, cutmix=1.0),
}
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
CLASSES = 1000


def main() -> None:
    """Print the ratio of each case, then the times of the ways to resample."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--grid", type=int, default=16)
    parser.add_argument("--channels", type=int, default=384)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    side = arguments.grid
    shape = (arguments.batch_size, side, side, arguments.channels)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{name}, {torch.get_num_threads()} CPU threads, tokens {list(shape)}")
    compare_with_step(shape, device, arguments.rounds)
    compare_resamplers(shape, device, arguments.rounds)


def compare_with_step(shape: tuple[int, int, int, int], device: torch.device, rounds: int) -> None:
    """Print what each case costs, beside a training step, and as a part of it."""
    count, side, _, channels = shape
    tokens = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    tokens = tokens.to(device, torch.float16)
    targets = torch.eye(count, CLASSES, device=device)
    spec = HeadSpec("deit-s", in_dim=channels, classes=CLASSES, grid=(side, side))
    head = build_head(spec, seed=0).to(device).train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = functional.cross_entropy(head(tokens), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def augmentation(case: Augmentation, number: int) -> None:
        drawn = draw(case, shape, seed=0, epoch=0, step=number)
        augment(tokens, targets, drawn)

    steps: list[float] = []
    costs: dict[str, list[float]] = {name: [] for name in CASES}
    for turn in range(rounds + 1):
        step_time = timed(step, device)
        for name, case in CASES.items():
            cost = timed(partial(augmentation, case, turn), device, repeats=5)
            if turn:  # the first is warm-up
                costs[name].append(cost)
        if turn:
            steps.append(step_time)
    print(f"a deit-s step: {1e3 * statistics.median(steps):.1f} ms")
    print(f"{'augmentation':28} {'ms':>9} {'of a step':>10}")
    for name, times in costs.items():
        ratio = statistics.median(c / s for c, s in zip(times, steps, strict=True))
        verdict = "" if ratio < LIMIT else f"  over {LIMIT:.0%}"
        print(f"{name:28} {1e3 * statistics.median(times):>9.2f} {ratio:>10.2%}{verdict}")


def compare_resamplers(shape: tuple[int, int, int, int], device: torch.device, rounds: int) -> None:
    """Print milliseconds of each way to resample, and its largest error against float64."""
    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "embedding_bag (in use)": resample,
        "grid_sample": with_grid_sample,
        "dense matrix": with_dense_matrix,
    }
    drawn = draw(Augmentation(kind="rotate,scale"), shape, seed=0, epoch=0, step=0)
    assert drawn.matrices is not None
    matrices = drawn.matrices.to(device)
    tokens = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    print(f"\n{'way to resample':28} {'dtype':>9} {'ms':>9} {'largest error':>14}")
    for dtype in DTYPES:
        batch = tokens.to(dtype)
        expected = resample(batch[:8].double(), matrices[:8])
        for name, way in ways.items():
            way(batch, matrices)
            repeat = range(3 * rounds)
            times = [timed(partial(way, batch, matrices), device) for _ in repeat]
            error = (way(batch[:8], matrices[:8]).double() - expected).abs().max()
            print(
                f"{name:28} {str(dtype).removeprefix('torch.'):>9}"
                f" {1e3 * statistics.median(times):>9.2f} {error.item():>14.1e}"
            )


def places(matrices: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the columns and rows to read, [b, h w], as fractions of cells."""
    device = matrices.device
    middle = torch.tensor([(width - 1) / 2, (height - 1) / 2], device=device)
    row, column = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    cells = torch.stack([column, row], dim=-1).flatten(0, 1) - middle
    found = cells @ matrices[:, :, :2].mT + matrices[:, None, :, 2] + middle
    return found[..., 0], found[..., 1]


def with_grid_sample(tokens: Tensor, matrices: Tensor) -> Tensor:
    """Resample with torch's own operation; it wants coordinates in the type of the tokens."""
    count, height, width, _ = tokens.shape
    x, y = places(matrices, height, width)
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    grid = grid.view(count, height, width, 2).to(tokens.dtype)
    sampled = functional.grid_sample(tokens.permute(0, 3, 1, 2), grid, align_corners=False)
    return sampled.permute(0, 2, 3, 1)


def with_dense_matrix(tokens: Tensor, matrices: Tensor) -> Tensor:
    """Resample by a matrix product of [b, hw, hw] weights with [b, hw, d] tokens."""
    _, height, width, _ = tokens.shape
    x, y = places(matrices, height, width)
    columns = torch.arange(width, device=tokens.device)
    rows = torch.arange(height, device=tokens.device)
    across = (1 - (x[..., None] - columns).abs()).clamp(min=0)
    down = (1 - (y[..., None] - rows).abs()).clamp(min=0)
    weights = (down[..., :, None] * across[..., None, :]).flatten(2)
    return torch.bmm(weights.to(tokens.dtype), tokens.flatten(1, 2)).view(tokens.shape)


def timed(action: Callable[[], object], device: torch.device, repeats: int = 1) -> float:
    """Return the seconds of an action, to the end of its work on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(repeats):
        action()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / repeats


if __name__ == "__main__":
    main()
