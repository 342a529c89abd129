"""The table of the LOFF-TA paper for one store: frozen + linear, LOFF, LOFF-TA, and + Pool.

    python examples/loff_table.py pets.fungi --head vit-xs --epochs 12 --seeds 3

Every line is trained for some seeds, each with its own stratified 60/20/20 split (or the store's
splits, where it has them), by `fungi train-loff` in a process of its own, and tested by
`fungi eval loff`. With `--large-set SET --pool 2`, SET being features of larger images, LOFF + Pool
and LOFF-TA + Pool join the table. Run again, it continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass

PLAIN = ("--augment", "none", "--noise", "0")


@dataclass(frozen=True)
class Line:
    """One line of the table: its title, and what `fungi train-loff` is told."""

    title: str
    name: str
    flags: tuple[str, ...]


def main() -> None:
    """Train, test, and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store")
    parser.add_argument("--feature-set")
    parser.add_argument("--large-set", help="patch tensors of larger images, to be pooled")
    parser.add_argument("--pool", type=int, default=2)
    parser.add_argument("--head", default="vit-xs")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--own-splits", action="store_true", help="the store's, not 60/20/20")
    arguments = parser.parse_args()
    chosen = ("--feature-set", arguments.feature_set) if arguments.feature_set else ()
    head = ("--head", arguments.head)
    lines = [
        Line("Frozen + linear", "table-linear", (*chosen, "--head", "linear", "--lr", "1e-2")),
        Line("LOFF", "table-loff", (*chosen, *head, *PLAIN)),
        Line("LOFF-TA", "table-ta", (*chosen, *head)),
    ]
    if arguments.large_set:
        large = ("--feature-set", arguments.large_set, "--pool", str(arguments.pool), *head)
        lines += [
            Line("LOFF + Pool", "table-loff-pool", (*large, *PLAIN)),
            Line("LOFF-TA + Pool", "table-ta-pool", large),
        ]
    split = () if arguments.own_splits else ("--holdout", "0.2", "--validation", "0.25")
    shared = (*split, "--epochs", str(arguments.epochs))
    print("| method | accuracy | mean recall | images/s, training | GB, training |")
    print("|---|---|---|---|---|", flush=True)
    for line in lines:
        print(row(arguments.store, line, shared, arguments.seeds), flush=True)


def row(store: str, line: Line, shared: tuple[str, ...], seeds: int) -> str:
    """Train a line's heads, test them together, and return its row."""
    speeds, peaks = [], []
    for seed in range(seeds):
        name = ("--name", f"{line.name}-{seed}", "--seed", str(seed))
        document, peak = fungi("train-loff", store, *line.flags, *shared, *name)
        speeds.append(document["images_per_second"])
        peaks.append(peak)
    sets = line.flags[: 2 * ("--feature-set" in line.flags)]
    document, _ = fungi("eval", "loff", store, *sets, "--head", f"{line.name}-[0-9]")
    metrics = document["metrics"]
    deviation = 100 * metrics.get("accuracy_deviation", 0)
    return (
        f"| {line.title} | {100 * metrics['accuracy']:.1f} ± {deviation:.1f} "
        f"| {100 * metrics['mean_per_class_accuracy']:.1f} "
        f"| {max(speeds):.0f} | {max(peaks):.1f} |"
    )


def fungi(*command: str) -> tuple[dict, float]:
    """Run a command; returns its JSON and the gigabytes of memory it had at most."""
    arguments = [sys.executable, "-m", "fungi_cli", *command, "--json"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        sys.exit(code)
    return json.loads(printed), usage.ru_maxrss / 1e6


if __name__ == "__main__":
    main()
