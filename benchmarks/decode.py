"""Decoding and drawing in threads against processes: images a second, and what the parent pays.

The parent's seconds are what a GPU's launches have to share a processor, and Python's lock, with.

    python benchmarks/decode.py --workers 2
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from timm.data import resolve_data_config

from fungistore.extraction.decoders import InProcesses, InThreads
from fungistore.extraction.drawing import Drawer
from fungistore.modalities.image.crops import DeviceCrops, RandomCrops, SizedFamily
from fungistore.modalities.image.inference import InferenceView
from fungistore.modalities.modality import find_modality
from fungistore.objectives.dino import DINO
from photographs import photographs, write_photographs

FILES = 64
SETS = {"embeddings": frozenset(["embeddings"]), "dino": frozenset(["dino"])}


def main() -> None:
    """Print a Markdown table; rounds alternate, and each line is the fastest round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--images", type=int, default=512, help="of one round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    families = [SizedFamily(f.count, 224, f.scale) for f in DINO().needs.views.families]
    crops = DeviceCrops(RandomCrops(tuple(families)))
    view = InferenceView(resolve_data_config({"img_size": 224}))
    drawer = Drawer(find_modality("image"), view, {"dino": crops}, seed=0)
    processes = InProcesses(drawer, arguments.workers)
    kinds = {"threads": InThreads(drawer), "processes": processes}
    print("| features | decoded in | images/s | parent's ms an image |\n|---|---|---|---|")
    with TemporaryDirectory() as folder:
        names = write_photographs(photographs(FILES), Path(folder))
        rows = [
            {"row": row, "id": f"{row}", "uri": names[row % FILES], "root": folder}
            for row in range(arguments.images)
        ]
        for name, features in SETS.items():
            best = dict.fromkeys(kinds, (0.0, 0.0))
            for _ in range(arguments.rounds):
                for kind, decoders in kinds.items():
                    found = measure(decoders, rows, features, arguments.workers)
                    best[kind] = max(best[kind], found)
            for kind, (rate, milliseconds) in best.items():
                print(f"| {name} | {kind} | {rate:.0f} | {milliseconds:.2f} |", flush=True)
    processes.close()


def measure(
    decoders: InThreads | InProcesses,
    rows: list[dict[str, object]],
    features: frozenset[str],
    workers: int,
) -> tuple[float, float]:
    """Return images a second, and milliseconds of this process an image."""
    step = decoders.rows_at_once
    parts = [rows[start : start + step] for start in range(0, len(rows), step)]
    with ThreadPoolExecutor(workers) as pool:
        began, paid = time.perf_counter(), time.process_time()
        drawn = sum(len(part) for part in pool.map(lambda p: decoders.draw(p, features), parts))
        seconds = time.perf_counter() - began
    return drawn / seconds, 1000 * (time.process_time() - paid) / drawn


if __name__ == "__main__":
    main()
