"""What each switch of LOFF-TA's training does to test accuracy, seed by seed, on several stores.

    python benchmarks/loff_ablation.py run RESULTS.jsonl textile.fungi elpv.fungi --seeds 3
    python benchmarks/loff_ablation.py report RESULTS.jsonl

Every variant changes some settings of a base (`none`: no augmentation). A seed decides the split
(stratified 60/20/20 where the store has none), the weights, the order and the augmentation, so
variants are compared on the same test rows: the report has the mean over seeds, and the mean
difference from a reference with its 95 % t-interval over all (store, seed) pairs. `run` may be
stopped and started again, and by several processes at once (`--part 0/2`, `--part 1/2`): what
RESULTS has is not run again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

import fungistore as fungi
from fungistore.machine.context import QUIET

NONE = {"augment": "none"}
TRIVIAL = {"augment": "trivial"}
VARIANTS: dict[str, dict[str, object]] = {
    "none": NONE,
    "none, noise 0.1": NONE | {"noise": 0.1},
    "none, noise 0.3": NONE | {"noise": 0.3},
    "hflip, noise 0": {"augment": "hflip", "noise": 0.0},
    "hflip,vflip, noise 0": {"augment": "hflip,vflip", "noise": 0.0},
    "trivial": TRIVIAL,
    "trivial, noise 0": TRIVIAL | {"noise": 0.0},
    "trivial, noise 0.3": TRIVIAL | {"noise": 0.3},
    "trivial, strength 0.5": TRIVIAL | {"strength": 0.5},
    "trivial, strength 0.25": TRIVIAL | {"strength": 0.25},
    "trivial, nearest": TRIVIAL | {"interpolation": "nearest"},
    "trivial, border": TRIVIAL | {"padding": "border"},
    "trivial, reflection": TRIVIAL | {"padding": "reflection"},
    "trivial, brightness 0.2": TRIVIAL | {"brightness": 0.2},
    "none, brightness 0.2": NONE | {"brightness": 0.2},
    "none, mixup 0.2": NONE | {"mixup": 0.2},
    "none, mixup 1": NONE | {"mixup": 1.0},
    "trivial, mixup 0.2": TRIVIAL | {"mixup": 0.2},
    "trivial, mixup 1": TRIVIAL | {"mixup": 1.0},
    "none, cutmix 1": NONE | {"cutmix": 1.0},
    "trivial, cutmix 1": TRIVIAL | {"cutmix": 1.0},
    "none, smoothing 0.1": NONE | {"label_smoothing": 0.1},
    "trivial, smoothing 0.1": TRIVIAL | {"label_smoothing": 0.1},
    "none, ema 0.99": NONE | {"ema": 0.99},
    "trivial, ema 0.99": TRIVIAL | {"ema": 0.99},
    "none, class token": NONE | {"class_token": True},
    "trivial, class token": TRIVIAL | {"class_token": True},
    "none, dropout 0.5": NONE | {"dropout": 0.5},
    "trivial, border, noise 0": TRIVIAL | {"padding": "border", "noise": 0.0},
    "none, drop tokens 0.25": NONE | {"drop_tokens": 0.25},
    "none, drop tokens 0.5": NONE | {"drop_tokens": 0.5},
    "trivial, drop tokens 0.5": TRIVIAL | {"drop_tokens": 0.5},
    "trivial, mean": TRIVIAL | {"padding": "mean"},
    "trivial, raw": TRIVIAL | {"augment_raw": True},
    "none, dropout 0.2": NONE | {"dropout": 0.2},
    "trivial, dropout 0.2": TRIVIAL | {"dropout": 0.2},
    "none, decay 0.3": NONE | {"weight_decay": 0.3},
    "none, not standardised": NONE | {"standardise": False},
    "trivial, not standardised": TRIVIAL | {"standardise": False},
}


def main() -> None:
    """Run, or report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("results", type=Path)
    run.add_argument("stores", nargs="+", type=Path)
    run.add_argument("--feature-set", default=None)
    run.add_argument("--head", default="attn-pool")
    run.add_argument("--epochs", type=int, default=30)
    run.add_argument("--seeds", type=int, default=3)
    run.add_argument("--variants", nargs="+", default=list(VARIANTS))
    run.add_argument("--pool", type=int, default=1)
    run.add_argument("--part", default="0/1")
    report = commands.add_parser("report")
    report.add_argument("results", type=Path)
    report.add_argument("--against", default="none")
    report.add_argument("--metric", default="accuracy")
    arguments = parser.parse_args()
    if arguments.command == "report":
        print_report(arguments.results, arguments.against, arguments.metric)
    else:
        torch.set_num_threads(1)  # as many processes as cores are faster than threads
        run_all(arguments)


def run_all(arguments: argparse.Namespace) -> None:
    """Train and test what the results lack, one line each."""
    part, parts = map(int, arguments.part.split("/"))
    jobs = [
        (seed, variant, store)
        for seed in range(arguments.seeds)
        for variant in arguments.variants
        for store in arguments.stores
    ]
    for number, (seed, variant, store) in enumerate(jobs):
        key = {
            "store": store.stem,
            "set": arguments.feature_set,
            "head": arguments.head,
            "epochs": arguments.epochs,
            "pool": arguments.pool,
            "variant": variant,
            "seed": seed,
        }
        if number % parts == part and key not in done(arguments.results):
            line = key | measure(store, key)
            with arguments.results.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(line, flush=True)


def done(results: Path) -> list[dict[str, object]]:
    """Return the keys that were measured."""
    lines = results.read_text().splitlines() if results.exists() else []
    measured = ("metrics", "best_epoch", "images_per_second")
    return [{k: v for k, v in json.loads(x).items() if k not in measured} for x in lines]


def measure(store: Path, key: dict[str, object]) -> dict[str, object]:
    """Train one head, in a copy of the store that shares its chunks, and test it."""
    with tempfile.TemporaryDirectory(dir=store.parent) as scratch:
        copy = Path(scratch, store.name)
        shutil.copytree(store, copy, copy_function=linked, ignore=shutil.ignore_patterns("heads"))
        settings = {
            "head": key["head"],
            "epochs": key["epochs"],
            "pool": key["pool"],
            "seed": key["seed"],
            "feature_set": key["set"],
            "holdout": 0.2,
            "validation": 0.25,
            "name": "h",
        }
        settings = {name: value for name, value in settings.items() if value is not None}
        options = fungi.TrainOptions.from_config(settings | VARIANTS[str(key["variant"])])
        trained = fungi.train_loff(copy, options, context=QUIET)
        asked = fungi.LoffOptions(heads=("h",), feature_set=trained.feature_set)
        score = fungi.evaluate_loff(copy, asked, context=QUIET).scores[0]
    return {
        "metrics": score.metrics,
        "best_epoch": trained.best_epoch,
        "images_per_second": round(trained.images_per_second, 1),
    }


def linked(source: str, target: str) -> str:
    """Link a chunk, copy all else: records may be rewritten."""
    if "/c/" in source:
        Path(target).hardlink_to(source)
        return target
    return shutil.copy2(source, target)


def print_report(results: Path, against: str, metric: str) -> None:
    """Print a Markdown table: a line a variant, a column a store, and the difference over all."""
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    for kind in sorted(set(map(kind_of, lines))):
        values: dict[str, dict[tuple[str, int], float]] = defaultdict(dict)
        for x in lines:
            if kind_of(x) == kind and metric in x["metrics"]:
                values[x["variant"]][x["store"], x["seed"]] = 100 * x["metrics"][metric]
        if against in values:
            features, head, epochs, pool = kind
            title = f"{features} {head}, {epochs} epochs, pool {pool}, {metric}".strip()
            table(values, against, title)


def kind_of(line: dict[str, Any]) -> tuple[str, str, int, int]:
    """Return what the lines of a table share."""
    return line["set"] or "", line["head"], line["epochs"], line["pool"]


def table(values: dict[str, dict[tuple[str, int], float]], against: str, title: str) -> None:
    """Print one table."""
    stores = sorted({store for found in values.values() for store, _ in found})
    print(f"\n{title}; differences from {against!r}\n")
    print("| variant |", " | ".join(f"{s} | diff." for s in stores), "| all | pairs |")
    print("|---" * (2 * len(stores) + 3) + "|")
    for variant, found in values.items():
        cells = [variant]
        for store in stores:
            own = {k: v for k, v in found.items() if k[0] == store}
            cells += [f"{np.mean(list(own.values())):.1f}" if own else "-"]
            cells += [interval(own, values[against])]
        print("|", " | ".join([*cells, interval(found, values[against]), str(len(found))]), "|")


def interval(found: dict[tuple[str, int], float], reference: dict[tuple[str, int], float]) -> str:
    """Return the mean difference of pairs, with half the width of its 95 % t-interval."""
    pairs = [found[key] - reference[key] for key in found if key in reference]
    if not pairs:
        return "-"
    if len(pairs) == 1:
        return f"{pairs[0]:+.1f}"
    half = stats.t.ppf(0.975, len(pairs) - 1) * np.std(pairs, ddof=1) / len(pairs) ** 0.5
    return f"{np.mean(pairs):+.1f} ± {half:.1f}"


if __name__ == "__main__":
    main()
