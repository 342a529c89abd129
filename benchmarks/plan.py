"""Compares a simulated cluster with what a real run of one did.

    python benchmarks/plan.py facts.json

The file has the facts of a run, and what was measured of it. Times are seconds since it began:

    {"units": 40,
     "nodes": [{"unit_seconds": 1.5, "workers": 1, "load_seconds": 8,
                "outages": [{"at": 20, "back": 31}]},
               {"unit_seconds": 2.1, "joins": 3}],
     "lease_seconds": 0,
     "measured": {"seconds": 47.2, "units_by_node": [24, 16]}}

Other fields are those of `fungistore.Cluster`. Prints a line for each number that was measured:
predicted, measured, and the ratio.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import fungistore as fungi


def compare(document: dict[str, object]) -> Iterator[tuple[str, float, float, float, float]]:
    """Yield what was predicted, with nine of ten runs' interval, and what was measured.

    Raises:
        UsageError: the facts cannot be used.
        ValueError: nothing was measured, or of other nodes.
    """
    measured = document.pop("measured", None)
    if not isinstance(measured, dict):
        raise ValueError('no "measured": {"seconds": ..., "units_by_node": [...]}')
    cluster = fungi.Cluster.from_json(document)
    simulation = fungi.simulate(cluster)
    if "seconds" in measured:
        took = simulation.seconds
        yield "seconds", took.mean, took.low, took.high, float(measured["seconds"])
    counts = measured.get("units_by_node", [])
    if counts and len(counts) != len(cluster.nodes):
        raise ValueError(f"units of {len(counts)} nodes, and facts of {len(cluster.nodes)}")
    for number, (mean, count) in enumerate(zip(simulation.by_node, counts, strict=False)):
        yield f"units of node {number}", mean, mean, mean, float(count)


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("facts", type=Path, help="a JSON file; see above")
    document = json.loads(parser.parse_args().facts.read_text(encoding="utf-8"))
    for what, mean, low, high, measured in compare(document):
        between = "" if low == high else f" ({low:.1f} to {high:.1f})"
        ratio = mean / measured if measured else float("nan")
        print(f"{what}: predicted {mean:.1f}{between}, measured {measured:.1f}, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
