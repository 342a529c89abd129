"""Extraction against its floor, paired, in one run: `make bench`.

The floor of a feature is the bare forward of the same model, in the same precision and batch, times
the forwards that the feature needs. Ours is everything `fungi extract` does between decoded images
and finished rows: views, trunk, tail, gradients, projection. Rounds alternate, so that a machine
whose speed drifts favours neither; a ratio is the median over rounds.

    python benchmarks/extract.py --model vit_small_patch14_dinov2 --batch-size 16 --rounds 5
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import timm
import torch
from safetensors.torch import save_file

from fungistore.extraction.features import DrawnBatch, FeatureMaker
from fungistore.extraction.freeze import throwaway_features
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.resolve import Resolved, resolve

FEATURES = (("embeddings",), ("embeddings", "kl"), ("embeddings", "kl", "patches"), ("dino",))
SIMCLR = (("simclr",),)


def main() -> None:
    """Print a table of ratios; 1.00 is the floor."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vit_small_patch14_dinov2")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--simclr", action="store_true", help="49 forwards an image: slow on a CPU")
    parser.add_argument("--view-size", default="model")
    arguments = parser.parse_args()
    print(f"{'features':28} {'forwards':>8} {'floor':>12} {'ours':>12} {'ours / floor':>12}")
    with TemporaryDirectory() as directory:
        weights = Path(directory) / "random.safetensors"
        torch.manual_seed(0)
        save_file(timm.create_model(arguments.model, num_classes=0).state_dict(), weights)
        for features in FEATURES + (SIMCLR if arguments.simclr else ()):
            options = ExtractOptions(
                model=arguments.model,
                weights=str(weights),
                image_size=arguments.image_size,
                features=features,
                batch_size=arguments.batch_size,
                device=arguments.device,
                view_size=arguments.view_size,
            )
            print(compare(resolve(options, {}), arguments.rounds))


def compare(resolved: Resolved, rounds: int) -> str:
    """Return one line of the table: images per second of the floor and of ours, and their ratio."""
    options = resolved.options
    wanted = frozenset(options.features)
    maker = throwaway_features(resolved)
    forwards = maker.forwards(wanted)
    bare = bare_model(resolved)
    side, count = resolved.backbone.image_size, resolved.batch_size
    pixels = torch.randn(count, 3, side, side, device=resolved.device).to(resolved.dtype)
    drawn = draw(maker, wanted, count)

    @torch.inference_mode()
    def floor() -> None:
        for _ in range(forwards):
            bare(pixels)

    def ours() -> None:
        maker.compute(drawn, wanted)

    pairs = []
    for turn in range(rounds + 1):
        pair = timed(floor, resolved.device), timed(ours, resolved.device)
        if turn:  # the first is warm-up
            pairs.append(pair)
    slow = statistics.median(count / floor_time for floor_time, _ in pairs)
    fast = statistics.median(count / our_time for _, our_time in pairs)
    ratio = statistics.median(floor_time / our_time for floor_time, our_time in pairs)
    name = ",".join(options.features)
    return f"{name:28} {forwards:>8} {slow:>8.2f} /s {fast:>9.2f} /s {ratio:>12.2f}"


def bare_model(resolved: Resolved) -> torch.nn.Module:
    """Return the plain timm model in the run's precision."""
    side = resolved.backbone.image_size
    model = timm.create_model(resolved.backbone.name, num_classes=0, img_size=side)
    return model.eval().requires_grad_(False).to(resolved.device, resolved.dtype)


def draw(maker: FeatureMaker, features: frozenset[str], count: int) -> DrawnBatch:
    """Return a batch of drawn random images of 256 x 320 pixels."""
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (256, 320, 3), dtype=np.uint8) for _ in range(count)]
    drawn = [maker.draw(image, str(number), features) for number, image in enumerate(images)]
    stacked: DrawnBatch = {}
    for name in drawn[0]:
        arrays = zip(*(one[name] for one in drawn), strict=True)
        stacked[name] = tuple(torch.from_numpy(np.stack(same)) for same in arrays)
    return stacked


def timed(action: Callable[[], None], device: torch.device) -> float:
    """Return the seconds that an action took, to the end of its work on the device."""
    began = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
