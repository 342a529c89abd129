"""Extraction against its floor, against `fungivision`, and from files, paired, in one run.

- The *floor* is the bare forward of the same model, in the same precision, at the same number and
  size of views, in the fastest of several batch sizes up to ours.
- *Ours* is what `fungi extract` does between drawn images and finished rows. For `fungivision`
  (PyPI, 0.0.2) both sides start from the same decoded images and make their own views.
- *From files* is a whole `fungi extract` of JPEG files, its store included, against the same
  batches already drawn in memory.

Rounds alternate, so that a machine whose speed drifts favours nobody; a ratio is the median over
rounds. Peak memory is that of a process of its own.

    python benchmarks/extract.py --model vit_small_patch14_dinov2 --features kl dino --rounds 3
    python benchmarks/extract.py --device cuda --compile --batch-size 256
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from fungistore import ExtractOptions, extract
from fungistore.extraction.batches import BatchViews, stack_drawn
from fungistore.extraction.features import FeatureMaker
from fungistore.extraction.freeze import throwaway_features
from fungistore.extraction.loader import default_workers
from fungistore.extraction.resolve import Resolved, resolve
from fungistore.machine.context import Context
from fungistore.machine.device import wait_for_gpu
from fungistore.machine.stopwatch import BESIDE, Clock, Stage
from fungistore.machine.transfer import one_behind, start_fetch
from photographs import photographs, write_photographs

SETS = {
    "embeddings": ("embeddings",),
    "kl": ("embeddings", "kl"),
    "patches": ("embeddings", "patches"),
    "dino": ("dino",),
    "simclr": ("simclr",),
}
MIXED: tuple[Stage, ...] = ("views", "trunk", "tail", "projection", "fetch")


def main() -> None:
    """Print a Markdown table of ratios, and one of the shares of time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vit_small_patch14_dinov2")
    parser.add_argument("--features", nargs="+", choices=SETS, default=["embeddings", "kl", "dino"])
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=16, help="of one in-memory round")
    parser.add_argument("--files", type=int, default=0, help="JPEG files to extract; 0: leave out")
    parser.add_argument("--theirs", type=int, default=0, help="images for fungivision a round")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--view-size", default="model")
    parser.add_argument("--memory-of", choices=SETS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with TemporaryDirectory() as directory:
        weights = Path(directory) / "random.safetensors"
        torch.manual_seed(0)
        save_file(timm.create_model(arguments.model, num_classes=0).state_dict(), weights)
        if arguments.memory_of:
            print(peak_memory(settle(arguments, arguments.memory_of, weights), arguments.images))
            return
        show(arguments, weights, Path(directory))


def show(arguments: argparse.Namespace, weights: Path, scratch: Path) -> None:
    """Measure and print every set of features."""
    shares = []
    for number, name in enumerate(arguments.features):
        resolved = settle(arguments, name, weights)
        if number == 0:
            print(f"{arguments.model}, {machine(resolved)}\n")
            print("| features | forwards | floor /s | ours /s | of floor | x fungivision |", end="")
            print(" from files | peak GiB |\n|---|---|---|---|---|---|---|---|")
        maker = throwaway_features(resolved)
        images = photographs(arguments.images)
        found = compare_with_floor(resolved, maker, images, arguments.rounds)
        theirs, files = "", ""
        if arguments.theirs and name in ("kl", "dino", "simclr"):
            theirs = compare_with_fungivision(resolved, maker, name, arguments)
        if arguments.files:
            files = compare_with_files(resolved, maker, scratch / name, arguments)
        forwards = maker.forwards(frozenset(resolved.options.features))
        print(f"| {name} | {forwards} | {found} | {theirs} | {files} |", end="")
        print(f" {child_memory(name):.2f} |", flush=True)
        shares.append((name, time_shares(resolved, maker, images)))
    print("\n| features | " + " | ".join(MIXED) + " |\n|---|" + "---|" * len(MIXED))
    for name, share in shares:
        print(f"| {name} | " + " | ".join(f"{share[stage]:.1%}" for stage in MIXED) + " |")


def settle(arguments: argparse.Namespace, name: str, weights: Path) -> Resolved:
    """Return what `fungi extract` would run with these settings."""
    size = arguments.view_size
    options = ExtractOptions(
        model=arguments.model,
        weights=str(weights),
        image_size=arguments.image_size,
        features=SETS[name],
        batch_size=arguments.batch_size,
        device=arguments.device,
        dtype=arguments.dtype,
        compile=arguments.compile,
        view_size=int(size) if size.isdecimal() else size,
    )
    return resolve(options, {})


def compare_with_floor(
    resolved: Resolved, maker: FeatureMaker, images: Sequence[NDArray[np.uint8]], rounds: int
) -> str:
    """Return images per second of the floor and of ours, and their ratio, as table cells."""
    wanted = frozenset(resolved.options.features)
    batches = in_batches(maker, images, wanted, resolved.batch_size)
    bare = fastest([bare_forwards(resolved, len(images), size) for size in floor_sizes(resolved)])

    def ours() -> None:
        extract_from_memory(maker, batches, wanted)

    floor_times, our_times = alternate(bare, ours, rounds)
    ratio = statistics.median(a / b for a, b in zip(floor_times, our_times, strict=True))
    floor_rate = len(images) / statistics.median(floor_times)
    our_rate = len(images) / statistics.median(our_times)
    return f"{floor_rate:.2f} | {our_rate:.2f} | {ratio:.2f}"


def floor_sizes(resolved: Resolved) -> list[int]:
    """Return the batch sizes that the floor may choose from: ours, and on a CPU smaller ones."""
    shifts = range(4 if resolved.device.type == "cpu" else 1)  # a GPU is fastest with the largest
    return [size for size in (resolved.batch_size >> shift for shift in shifts) if size]


def fastest(actions: Sequence[Callable[[], None]]) -> Callable[[], None]:
    """Return the action that takes least time, after a run of each to warm up."""

    def seconds(action: Callable[[], None]) -> float:
        return alternate(action, lambda: None, rounds=1)[0][0]

    return min(actions, key=seconds)


def bare_forwards(resolved: Resolved, images: int, batch_size: int) -> Callable[[], None]:
    """Return an action that runs the plain timm model on as many pixels as the features need."""
    options, backbone = resolved.options, resolved.backbone
    side = backbone.image_size
    model: Any = timm.create_model(
        backbone.name,
        num_classes=0,
        img_size=side,
        dynamic_img_size=options.view_size != "model",
    )
    dtype = resolved.dtype if resolved.dtype.is_floating_point else torch.float32
    model.eval().requires_grad_(False).to(resolved.device, dtype)
    if options.compile:
        model = torch.compile(model, dynamic=False)
    counts = {side: 0}
    for name in options.features:
        if recipe := resolved.views.get(name):
            for group in recipe.groups:
                counts[group.size] = counts.get(group.size, 0) + group.count * images
        else:
            counts[side] = images
    pixels = {
        size: torch.randn(batch_size, 3, size, size, device=resolved.device).to(dtype)
        for size in counts
    }

    @torch.inference_mode()
    def run() -> None:
        for size, count in counts.items():
            for start in range(0, count, batch_size):
                model(pixels[size][: count - start])

    return run


def compare_with_fungivision(
    resolved: Resolved, maker: FeatureMaker, name: str, arguments: argparse.Namespace
) -> str:
    """Return how many times faster ours is, both from decoded images, as a table cell."""
    from fungivision.config import DINOConfig, KLConfig, SimCLRConfig
    from fungivision.wrapper import FUNGIWrapper

    config = {"kl": KLConfig, "dino": DINOConfig, "simclr": SimCLRConfig}[name]()
    model = timm.create_model(
        resolved.backbone.name, num_classes=0, img_size=resolved.backbone.image_size
    )
    wrapper = FUNGIWrapper(
        model.eval(),
        target_layer=resolved.backbone.target_layer,
        device=resolved.device,
        input_dim=resolved.backbone.image_size,
        use_fp16=resolved.device.type == "cuda",
        extractor_configs=[config],
    )
    if name == "simclr":  # what setup() would encode: 64 images of 49 windows
        (extractor,) = wrapper.extractors
        extractor.comparison_batch = torch.randn(64 * 49, 96, device=resolved.device)
    images = photographs(max(arguments.theirs, arguments.images))
    few = [Image.fromarray(image) for image in images[: arguments.theirs]]
    wanted = frozenset(resolved.options.features)

    def theirs() -> None:
        wrapper(few)

    def ours() -> None:
        batches = in_batches(maker, images, wanted, resolved.batch_size)
        extract_from_memory(maker, batches, wanted)

    their_times, our_times = alternate(theirs, ours, arguments.rounds)
    pairs = zip(their_times, our_times, strict=True)
    ratio = statistics.median((a / len(few)) / (b / len(images)) for a, b in pairs)
    return f"{ratio:.2f} ({len(few) / statistics.median(their_times):.2f} /s)"


def compare_with_files(
    resolved: Resolved, maker: FeatureMaker, folder: Path, arguments: argparse.Namespace
) -> str:
    """Return the rate of a whole extraction from files over that of the same drawn batches."""
    folder.mkdir()
    images = photographs(arguments.files)
    write_photographs(images, folder)
    wanted = frozenset(resolved.options.features)
    batches = in_batches(maker, images, wanted, resolved.batch_size)
    options = replace(resolved.options, unit_rows=64)
    rates = []

    def ours() -> None:
        store = folder.with_suffix(".fungi")
        rates.append(extract(str(folder), store, options, restart=store.exists()))

    def memory() -> None:
        extract_from_memory(maker, batches, wanted)

    times, _ = alternate(memory, ours, arguments.rounds)
    whole = [result.images_per_second for result in rates[1:]]
    ratio = statistics.median(
        rate / (len(images) / seconds) for rate, seconds in zip(whole, times, strict=True)
    )
    return f"{ratio:.2f}"


def time_shares(
    resolved: Resolved, maker: FeatureMaker, images: Sequence[NDArray[np.uint8]]
) -> dict[str, float]:
    """Return each stage's share of the time between drawn images and rows."""
    wanted = frozenset(resolved.options.features)
    clock = Clock(wait_for_gpu)
    for batch in in_batches(maker, images, wanted, resolved.batch_size):
        launched = maker.launch(batch, wanted, Context(watch=clock))
        with clock.stage("fetch"):
            for rows in launched.values():
                rows.cpu()
    seconds = {time.stage: time.seconds for time in clock.times() if time.stage not in BESIDE}
    return {stage: seconds[stage] / sum(seconds.values()) for stage in MIXED}


def in_batches(
    maker: FeatureMaker, images: Sequence[NDArray[np.uint8]], features: frozenset[str], size: int
) -> list[BatchViews]:
    """Draw images in threads, as the loader does."""
    with ThreadPoolExecutor(default_workers(maker.device.type)) as pool:
        drawn = list(
            pool.map(
                lambda pair: maker.drawer.draw(pair[1], str(pair[0]), features), enumerate(images)
            )
        )
    pinned = maker.device.type == "cuda"
    starts = range(0, len(drawn), size)
    return [stack_drawn(drawn[start : start + size], pinned=pinned) for start in starts]


def extract_from_memory(
    maker: FeatureMaker, batches: Sequence[BatchViews], features: frozenset[str]
) -> None:
    """Compute batches as `fungi extract` does, and keep nothing."""
    launches = (start_fetch(maker.launch(batch, features)) for batch in batches)
    for fetch in one_behind(launches, maker.device):
        fetch()


def alternate(
    first: Callable[[], None], second: Callable[[], None], rounds: int
) -> tuple[list[float], list[float]]:
    """Return the seconds of both actions, round by round, after one round of warm-up."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for action, kept in zip((first, second), times, strict=True):
            wait_for_gpu()
            began = time.perf_counter()
            action()
            wait_for_gpu()
            if turn:
                kept.append(time.perf_counter() - began)
    return times


def peak_memory(resolved: Resolved, count: int) -> float:
    """Return the most GiB that two batches took: of the GPU, or else of this process."""
    maker = throwaway_features(resolved)
    wanted = frozenset(resolved.options.features)
    batches = in_batches(maker, photographs(count), wanted, resolved.batch_size)
    extract_from_memory(maker, batches, wanted)
    if resolved.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def child_memory(name: str) -> float:
    """Run this benchmark again for nothing but one set's memory."""
    command = [sys.executable, *sys.argv, "--memory-of", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def machine(resolved: Resolved) -> str:
    """Describe where and how this ran."""
    place = f"{os.cpu_count()} cores of {platform.processor() or platform.machine()}"
    if resolved.device.type == "cuda":
        place = torch.cuda.get_device_name(resolved.device)
    options = resolved.options
    how = f"{resolved.dtype_name}, batch {resolved.batch_size}, views at {options.view_size} size"
    return f"{place}, torch {torch.__version__}, {how}" + (", compiled" * bool(options.compile))


if __name__ == "__main__":
    main()
