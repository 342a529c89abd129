"""LOFF-TA's tables on a folder of labelled images: frozen, unfrozen and adapted, with heads after.

    python benchmarks/loff_study.py images/ study.fungi --model vit_small_patch14_dinov2.lvd142m
    python benchmarks/loff_study.py images/ study.fungi --model MODEL --quick
    python benchmarks/loff_study.py images/ study.fungi --model MODEL --pilot

`--pilot` trains each method at several rates, on the first seed's rows, in a store beside the
study's, and keeps the rates that validation rows found best in STORE.rates.json, which the study
then takes. `images/` has a folder for each class. Each step is a `fungi` command in a process of
its own, which is printed before it runs, so that its memory and its rates are its own; the table
and the ratios come last. Stopped and started again, finished steps are left out and a training goes
on where it was. Two processes at once share the work with `--part 0/2` and `--part 1/2`; a last run
without `--part` prints the table. Seeds are outermost, so what is there at any time is a table of
fewer seeds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fungistore as fungi
from fungistore.machine.context import QUIET

SEEDS = 3  # of everything, the rows held out among it
ROWS = ("--holdout", "0.2", "--validation", "0.25")  # 60/20/20, as the seed divides them
SIZE = 224  # of images; twice this for "+ Pool"
RATES = {  # of the methods, unless a pilot has chosen others
    "linear": "1e-2",
    "full": "2e-4",
    "vpt": "1e-2",
    "ssf": "3e-3",
    "adaptformer": "1e-3",
    "lora": "1e-3",
}
PILOT = (0.3, 1, 3)  # times these rates
DEFAULT_METHODS = "full,vpt,ssf,adaptformer"
ADAPT = ("--batch-size", "32")
ADAPT_EPOCHS = "5"
HEADS = "stat-pool"
HEAD = ("--batch-size", "64")
HEAD_EPOCHS = "30"
LINEAR = ("--head", "linear", "--lr", "1e-2", *HEAD)
TIMED = "64"  # images that a backbone is timed on
QUICK = {"epochs": "1", "images": 30, "size": 56, "timed": "8"}
WITH_FAILURES = 3  # exit status: done, but for some images
PRELOADED = ["fungi_cli.main", "timm", "fungistore.loff.train", "fungistore.adaptation.stage"]

Command = tuple[str, ...]


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights", default=None)
    parser.add_argument("--size", type=int, default=None)
    parser.add_argument("--seeds", type=int, default=None)
    parser.add_argument("--methods", default=DEFAULT_METHODS, help=",".join(RATES))
    parser.add_argument("--heads", default=HEADS, help="such as stat-pool,attn-pool")
    parser.add_argument("--part", default=None, help="such as 0/2; prints no table")
    parser.add_argument("--quick", action="store_true", help="1 epoch of 1 seed on few images")
    parser.add_argument("--pilot", action="store_true", help="choose the rates of the methods")
    asked = parser.parse_args()
    asked.size = asked.size or (QUICK["size"] if asked.quick else SIZE)
    asked.seeds = asked.seeds or (1 if asked.quick else SEEDS)
    done = asked.store.with_suffix(".steps")
    done.mkdir(parents=True, exist_ok=True)
    if asked.quick:
        asked.images = subset(asked.images, done / "images")
    chosen = asked.store.with_suffix(".rates.json")
    asked.rates = RATES | (json.loads(chosen.read_text()) if chosen.exists() else {})
    if asked.pilot:
        asked.store = asked.store.with_suffix(".pilot.fungi")
    part, parts = map(int, (asked.part or "0/1").split("/"))
    for number, chain in enumerate(pilots(asked) if asked.pilot else chains(asked)):
        if number % parts == part:
            for name, command in chain:
                run(done / f"{name}.json", command)
    if asked.part is not None:
        return
    if asked.pilot:
        choose_rates(asked, chosen)
    else:
        show(asked, done)


def pilots(asked: argparse.Namespace) -> Iterator[list[tuple[str, Command]]]:
    """Yield an adaptation for each method and rate, on the rows of the first seed."""
    for method in asked.methods.split(","):
        for rate in tried(method):
            name = f"{method}-{rate}"
            yield [(f"pilot-{name}", adapt(asked, method, rate, name, 0))]


def tried(method: str) -> list[str]:
    """Return the rates that a pilot tries."""
    return [f"{factor * float(RATES[method]):.0e}" for factor in PILOT]


def choose_rates(asked: argparse.Namespace, chosen: Path) -> None:
    """Print what each rate gave on validation rows, and keep the best of each method."""
    best = {}
    for method in asked.methods.split(","):
        found = {}
        for rate in tried(method):
            log = asked.store / "adaptations" / f"{method}-{rate}" / "log.jsonl"
            epochs = [json.loads(line) for line in log.read_text().splitlines()]
            found[rate] = max(epoch["validation"]["accuracy"] for epoch in epochs)
        best[method] = max(found, key=lambda rate: found[rate])
        print(method, {rate: round(100 * value, 2) for rate, value in found.items()})
    chosen.write_text(json.dumps(best))


def chains(asked: argparse.Namespace) -> Iterator[list[tuple[str, Command]]]:
    """Yield steps, by name, that need each other: the frozen ones of a seed, or of one method."""
    for seed in range(asked.seeds):
        yield list(frozen_steps(asked, seed))
        for method in asked.methods.split(","):
            yield list(adapted_steps(asked, method, seed))


def frozen_steps(asked: argparse.Namespace, seed: int) -> Iterator[tuple[str, Command]]:
    """Yield the rows of the paper's main table: small images, and large ones pooled."""
    large = ("--image-size", str(2 * asked.size), "--pool", "2")
    yield "frozen", extract(asked, "frozen", "--image-size", str(asked.size))
    yield "large", extract(asked, "large", *large)
    yield f"frozen-linear-{seed}", train(asked, "frozen", f"linear-{seed}", seed, *LINEAR)
    yield from head_steps(asked, "frozen", seed)
    yield from head_steps(asked, "large", seed)


def adapted_steps(
    asked: argparse.Namespace, method: str, seed: int
) -> Iterator[tuple[str, Command]]:
    """Yield an adaptation, its features, and heads after it."""
    name = f"{method}-{seed}"
    yield f"adapt-{name}", adapt(asked, method, asked.rates[method], name, seed)
    size = ("--image-size", str(asked.size))
    yield name, extract(asked, name, *size, "--adapter", name)
    if method != "linear":  # whose features are the frozen ones
        yield from head_steps(asked, name, seed)


def head_steps(
    asked: argparse.Namespace, feature_set: str, seed: int
) -> Iterator[tuple[str, Command]]:
    """Yield LOFF and LOFF-TA with each head."""
    for head in asked.heads.split(","):
        for name, augment in ((f"{head}-{seed}", "none"), (f"{head}-ta-{seed}", "trivial")):
            flags = ("--head", head, "--augment", augment, *HEAD)
            yield f"{feature_set}-{name}", train(asked, feature_set, name, seed, *flags)


def adapt(asked: argparse.Namespace, method: str, rate: str, name: str, seed: int) -> Command:
    """Return the command that adapts the backbone."""
    epochs = QUICK["epochs"] if asked.quick else ADAPT_EPOCHS
    return (
        *("adapt", str(asked.images), str(asked.store), *model(asked), "--method", method),
        *("--image-size", str(asked.size), "--name", name, "--seed", str(seed), *ROWS),
        *("--epochs", epochs, "--lr", rate, *ADAPT),
    )


def extract(asked: argparse.Namespace, feature_set: str, *flags: str) -> Command:
    """Return the command that makes a feature set."""
    features = ("--features", "embeddings,patches", "--feature-set", feature_set)
    return ("extract", str(asked.images), str(asked.store), *model(asked), *features, *flags)


def train(
    asked: argparse.Namespace, feature_set: str, name: str, seed: int, *flags: str
) -> Command:
    """Return the command that trains a head."""
    epochs = QUICK["epochs"] if asked.quick else HEAD_EPOCHS
    rows = ("--seed", str(seed), *ROWS, "--epochs", epochs)
    named = ("--feature-set", feature_set, "--name", name)
    return ("train-loff", str(asked.store), *named, *rows, *flags)


def model(asked: argparse.Namespace) -> Command:
    """Return the flags that say which backbone."""
    weights = () if asked.weights is None else ("--weights", asked.weights)
    return ("--model", asked.model, *weights)


def run(record: Path, command: Command) -> None:
    """Run a command unless it is recorded as done, and record how long it took."""
    if record.exists() and tuple(json.loads(record.read_text())["command"]) == command:
        return
    print("fungi", shlex.join(command), flush=True)
    began = time.perf_counter()
    server = multiprocessing.get_context("forkserver")  # a new process, after its imports
    server.set_forkserver_preload(PRELOADED)
    process = server.Process(target=fungi_command, args=(command,))
    process.start()
    process.join()
    if process.exitcode not in (0, WITH_FAILURES):
        sys.exit(process.exitcode)
    seconds = round(time.perf_counter() - began, 1)
    record.write_text(json.dumps({"command": command, "seconds": seconds}))


def fungi_command(command: Command) -> None:
    """Be `fungi`."""
    from fungi_cli.main import main as be_fungi

    sys.argv = ["fungi", *command]
    be_fungi()


def subset(images: Path, target: Path) -> Path:
    """Copy a few images of each class."""
    for folder in sorted(path for path in images.iterdir() if path.is_dir()):
        (target / folder.name).mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.iterdir())[: QUICK["images"]]:
            shutil.copy2(path, target / folder.name)
    return target


def show(asked: argparse.Namespace, done: Path) -> None:
    """Print the table, how long it took, and LOFF-TA beside fine-tuning."""
    timed = QUICK["timed"] if asked.quick else TIMED
    options = fungi.LoffTableOptions(time_backbone=int(timed), weights=asked.weights)
    print(f"\nfungi table loff {shlex.quote(str(asked.store))} --time-backbone {timed}\n")
    table = fungi.table_loff(asked.store, options, context=QUIET)
    print(table.to_markdown())
    seconds = sum(json.loads(path.read_text())["seconds"] for path in done.glob("*.json"))
    print(f"{seconds / 3600:.2f} hours of commands")
    trained = {row.method: row.speed.training for row in table.rows if row.speed is not None}
    ours, full = trained.get("LOFF-TA"), trained.get("Unfrozen + linear")
    if ours is None or full is None:
        return
    print("LOFF-TA beside fine-tuning the same backbone (the paper: up to 37x and 26x):")
    faster = ours.images_per_second / full.images_per_second
    print(f"  {faster:.1f}x the training images a second, without the one extraction")
    print(f"  {full.peak_rss_bytes / ours.peak_rss_bytes:.1f}x less memory of the process (RSS)")
    if ours.peak_gpu_bytes and full.peak_gpu_bytes:
        print(f"  {full.peak_gpu_bytes / ours.peak_gpu_bytes:.1f}x less memory of the GPU")


if __name__ == "__main__":
    main()
