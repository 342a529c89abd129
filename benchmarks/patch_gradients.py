"""Patch tokens and their gradients against bare forwards, and against those and one matrix product.

    python benchmarks/patch_gradients.py                      # ViT-S/14 at 252 and 518
    python benchmarks/patch_gradients.py --device cuda --images 256 --batch-size 64

The floor of a tensor sketch is a forward of timm's model. That of the paper's binary matrix is a
forward and the matrix product that it costs, 2 x dim x out x in operations a token, as one product
of the fastest shape that was found. Times of one run, medians of rounds that alternate.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from math import prod
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from extract import alternate, bare_forwards, extract_from_memory, fastest, floor_sizes, in_batches
from fungistore.extraction.freeze import throwaway_features
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.resolve import Resolved, resolve
from fungistore.machine.cores import one_thread_each
from photographs import photographs

DEPTHS = (1024, 4096, 16384)  # columns of a gradient that one product takes
FEATURES = ("patches", "patches/simclr")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="vit_small_patch14_dinov2")
    parser.add_argument("--image-size", type=int, nargs="+", default=[252, 518])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        weights = Path(directory) / "random.safetensors"
        torch.manual_seed(0)
        save_file(timm.create_model(arguments.model, num_classes=0).state_dict(), weights)
        print("| pixels | projection | forward /s | product /s | floor /s | ours /s | of floor |")
        print("|---|---|---|---|---|---|---|")
        for size in arguments.image_size:
            for projection in ("binary", "tensorsketch"):
                show(arguments, weights, size, projection)


def show(arguments: argparse.Namespace, weights: Path, size: int, projection: str) -> None:
    """Print one line of the table."""
    options = ExtractOptions.from_config(
        {
            "model": arguments.model,
            "weights": str(weights),
            "image-size": size,
            "features": list(FEATURES),
            "batch-size": arguments.batch_size,
            "device": arguments.device,
            "dtype": arguments.dtype,
            "projection": projection,
        }
    )
    resolved = resolve(options, {})
    maker = throwaway_features(resolved)
    images = photographs(arguments.images)
    wanted = frozenset(FEATURES)
    batches = in_batches(maker, images, wanted, resolved.batch_size)
    sizes = floor_sizes(resolved)
    bare = fastest([bare_forwards(resolved, len(images), batch) for batch in sizes])
    product = fastest([matrix_product(resolved, depth) for depth in DEPTHS])

    def ours() -> None:
        extract_from_memory(maker, batches, wanted)

    def products() -> None:
        if projection == "binary":
            product()

    forward, made = alternate(bare, ours, arguments.rounds)
    products_alone, _ = alternate(products, lambda: None, arguments.rounds)
    per_image = statistics.median(products_alone) if projection == "binary" else 0.0
    floors = [one + per_image * len(images) for one in forward]
    ratio = statistics.median(a / b for a, b in zip(floors, made, strict=True))
    cells = [
        f"{len(images) / statistics.median(forward):.2f}",
        f"{1 / per_image:.2f}" if per_image else "",
        f"{len(images) / statistics.median(floors):.2f}",
        f"{len(images) / statistics.median(made):.2f}",
        f"{ratio:.2f}",
    ]
    print(f"| {size} | {projection} | {' | '.join(cells)} |", flush=True)


def matrix_product(resolved: Resolved, depth: int) -> Callable[[], None]:
    """Return an action that multiplies as much as one image's tokens need, on all cores."""
    spec, device = resolved.projection, resolved.device
    tokens = prod(resolved.backbone.token_shape)
    dtype = torch.float32 if resolved.dtype == torch.float32 else torch.bfloat16
    cores = torch.get_num_threads() if device.type == "cpu" else 1
    parts = [
        (
            torch.randn(max(1, tokens // cores), depth, device=device, dtype=dtype),
            torch.randn(depth, spec.dim, device=device, dtype=dtype),
        )
        for _ in range(cores)
    ]
    times = -(-spec.columns // depth)

    def multiply(part: tuple[torch.Tensor, torch.Tensor]) -> None:
        for _ in range(times):
            part[0] @ part[1]

    def run() -> None:
        with one_thread_each(device) as spread:
            list(spread.map(multiply, parts))
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


if __name__ == "__main__":
    main()
