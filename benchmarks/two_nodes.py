"""A two-node Ray cluster that loses a node and gets one, beside its simulation.

    python benchmarks/two_nodes.py --rounds 3 --facts facts.json

Each node has one core of this machine for itself; they share its memory, disk and caches. What the
simulation is given is measured before each round, by other runs:

- a unit's seconds: of two plain processes beside each other, without Ray, one on each core;
- the seconds until a process begins with its first unit: of the same processes;
- the seconds until the cluster's workers are started: of a rehearsal of four units, from the
  command to the first unit, less the two above. The nodes join then.

Then a new cluster extracts all images; a node is killed, with all that runs on it, and a new one
joins, at the moments that are written down. The facts of all rounds are kept in files that
benchmarks/plan.py reads. The images are cuts of photographs, some more than once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from photographs import photographs, write_photographs
from plan import compare

ROOT = Path(__file__).parents[1]
NODES = ROOT / "tests" / "ray_nodes.py"
MODEL = "vit_small_patch16_224"
ARRAY = "gradients/kl"  # the last of a unit's
DIFFERENT = 250  # images
UNITS_BEFORE = 12


@dataclass(frozen=True)
class Before:
    """What is known of a run before it.

    Attributes:
        unit_seconds: that a process on one core takes for a unit, beside another one.
        load_seconds: from the start of such a process to its first unit.
        start_seconds: from the command to the start of the cluster's workers.
    """

    unit_seconds: float
    load_seconds: float
    start_seconds: float


class Bench:
    """A folder with images and weights.

    Args:
        folder: it.
        unit_rows: images of a unit.
    """

    def __init__(self, folder: Path, unit_rows: int) -> None:
        self.folder, self.unit_rows = folder, unit_rows

    def prepare(self, images: int) -> None:
        """Draw the images, and the weights."""
        from safetensors.torch import save_file
        from timm import create_model

        (self.folder / "images").mkdir()
        for start in range(0, images, DIFFERENT):
            part = self.folder / "images" / f"{start:05}"
            part.mkdir()
            write_photographs(photographs(min(DIFFERENT, images - start)), part)
        weights = create_model(MODEL, pretrained=False, num_classes=0).state_dict()
        save_file(weights, self.folder / "weights.safetensors")

    def start(
        self, store: str, *more: str, core: int | None = None
    ) -> tuple[float, subprocess.Popen[str]]:
        """Start an extraction; returns when, and its process."""
        words = [sys.executable, "-m", "fungi_cli", "extract", "images", store, "--json"]
        words += ["--model", MODEL, "--weights", "weights.safetensors", "--features"]
        words += ["embeddings,kl", "--device", "cpu", "--dtype", "float32", "--batch-size"]
        words += [str(self.unit_rows), "--unit-rows", str(self.unit_rows), "--workers", "1"]
        pin = (lambda: os.sched_setaffinity(0, {core})) if core is not None else None
        began = time.time()
        process = subprocess.Popen(
            [*words, *more],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            preexec_fn=pin,
        )
        return began, process

    def commits(self, store: str) -> list[float]:
        """Return when each unit was committed, in order."""
        paths = (self.folder / store / "commits").glob(f"*/{ARRAY}/*.json")
        return sorted(path.stat().st_mtime for path in paths)

    def plain(self, name: str, units: int, cores: list[int]) -> tuple[float, float]:
        """Return a unit's seconds, and those before the first, of processes beside each other."""
        limit = ("--limit", str(units * self.unit_rows))
        running = [self.start(f"{name}-{core}", *limit, core=core) for core in cores]
        found = []
        for core, (began, process) in zip(cores, running, strict=True):
            finish(process)
            times = self.commits(f"{name}-{core}")
            each = (times[-1] - times[0]) / (len(times) - 1)
            found.append((each, times[0] - began - each))
        return fmean(each for each, _ in found), fmean(load for _, load in found)


class Nodes:
    """A cluster in a process of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(NODES), "--pinned"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.address = self._answer()

    def ask(self, word: str) -> None:
        """Let a node join ("add"), or die ("kill")."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        assert self._answer() == word

    def end(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(120)

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return what a command has printed."""
    out, _ = process.communicate(timeout=1800)
    if process.returncode != 0:
        raise RuntimeError(out)
    document: dict[str, Any] = json.loads(out)
    return document


def look_before(bench: Bench, number: int) -> Before:
    """Measure what the simulation is given."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    each, load = bench.plain(f"plain-{number}", UNITS_BEFORE, cores)
    nodes = Nodes()
    try:
        flags = ("--engine", "ray", "--address", nodes.address)
        store, limit = f"rehearsal-{number}", str(4 * bench.unit_rows)
        began, process = bench.start(store, *flags, "--limit", limit)
        finish(process)
    finally:
        nodes.end()
    first = bench.commits(store)[0] - began
    return Before(each, load, max(0.0, first - each - load))


def measure(
    bench: Bench, store: str, before: Before, units: int, kill: float, join: float
) -> dict[str, Any]:
    """Run the cluster, with a death and a return; returns the facts and what was measured."""
    nodes = Nodes()
    try:
        began, process = bench.start(store, "--engine", "ray", "--address", nodes.address)
        time.sleep(kill)
        at = time.time() - began
        nodes.ask("kill")
        time.sleep(max(0.0, join - (time.time() - began)))
        nodes.ask("add")
        back = time.time() - began
        told = finish(process)
    finally:
        nodes.end()
    times = bench.commits(store)
    if not len(times) == told["units"]["total"] == units or times[-1] - began < back:
        raise RuntimeError("the run was over before its nodes had died and come")
    lives = max(node["units"] for node in told["nodes"])  # of the one that was there all the time
    node = {"unit_seconds": before.unit_seconds, "load_seconds": before.load_seconds}
    node |= {"joins": before.start_seconds}
    return {
        "units": units,
        "nodes": [node, node | {"outages": [{"at": at, "back": back}]}],
        "measured": {"seconds": times[-1] - began, "units_by_node": [lives, units - lives]},
    }


def main() -> None:
    """Print what was known before, and a comparison for each round."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--unit-rows", type=int, default=16)
    parser.add_argument("--kill", type=float, default=40, help="seconds after the command")
    parser.add_argument("--join", type=float, default=65)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--facts", type=Path, help="files for the facts: NAME-0.json, ...")
    asked = parser.parse_args()
    units = -(-asked.images // asked.unit_rows)
    with TemporaryDirectory() as directory:
        bench = Bench(Path(directory), asked.unit_rows)
        bench.prepare(asked.images)
        for number in range(asked.rounds):
            loads = [os.getloadavg()[0]]
            before = look_before(bench, number)
            loads.append(os.getloadavg()[0])
            facts = measure(bench, f"run-{number}", before, units, asked.kill, asked.join)
            loads.append(os.getloadavg()[0])
            (outage,) = facts["nodes"][1]["outages"]
            print(f"round {number}: {before}")
            print(f"killed at {outage['at']:.1f} s, back at {outage['back']:.1f} s")
            print(f"load: {', '.join(f'{load:.1f}' for load in loads)} before, between, after")
            if asked.facts:
                path = asked.facts.with_name(f"{asked.facts.stem}-{number}.json")
                path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
            for what, mean, _, _, measured in compare(facts):
                ratio = mean / measured
                print(f"{what}: predicted {mean:.1f}, measured {measured:.1f}, ratio {ratio:.2f}")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
