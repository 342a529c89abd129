"""`fungi extract` of a long manifest whose samples are all known: time and peak memory.

    python benchmarks/listing.py [--rows N] [--format parquet|csv] [--keep DIRECTORY]

Makes a manifest of N rows over eight images, with ids, labels and splits, and runs
`fungi extract --limit 8` twice: the first run lists them, the second finds nothing new. Then
`fungi status`. Needs 2 GB of disk for ten million rows.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FILES, CLASSES, ROWS_AT_ONCE = 8, 1000, 1_000_000
MODEL = "test_vit.r160_in1k"


def main() -> None:
    """Make the manifest and run every command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--format", choices=("parquet", "csv"), default="parquet")
    parser.add_argument("--keep", type=Path, help="make manifest and store here, and leave them")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        manifest = folder / f"rows.{arguments.format}"
        weights = folder / "weights.safetensors"
        # in a process of its own: the peak of a child begins with its parent's memory
        maker = multiprocessing.get_context("spawn").Process(
            target=make, args=(manifest, weights, arguments.rows)
        )
        maker.start()
        maker.join()
        store = folder / f"{arguments.format}.fungi"
        extract = ["extract", manifest, store, "--model", MODEL, "--weights", weights]
        extract += ["--features", "embeddings"]
        for command in ([*extract, "--limit", "8"], [*extract, "--limit", "8"], ["status", store]):
            measure([*map(str, command), "--json"])


def make(manifest: Path, weights: Path, rows: int) -> None:
    """Write the manifest, the images beside it, and a model's weights."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv as csv
    import pyarrow.parquet as pq
    import timm
    from PIL import Image
    from safetensors.torch import save_file

    if manifest.exists():
        return
    model = timm.create_model(MODEL, pretrained=False)
    if not weights.exists():
        tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
        save_file(tensors, weights)
    random = np.random.default_rng(0)
    for number in range(FILES):
        pixels = random.integers(0, 256, (32, 32, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(manifest.parent / f"{number}.png")
    schema = pa.schema([(name, pa.string()) for name in ("path", "id", "label", "split")])
    is_csv = manifest.suffix == ".csv"
    writer = (csv.CSVWriter if is_csv else pq.ParquetWriter)(str(manifest), schema)
    with writer:
        for start in range(0, rows, ROWS_AT_ONCE):
            numbers = range(start, min(rows, start + ROWS_AT_ONCE))
            columns = [
                [f"{n % FILES}.png" for n in numbers],
                [f"class_{n % CLASSES:04d}/image_{n:08d}" for n in numbers],
                [f"class_{n % CLASSES:04d}" for n in numbers],
                ["train" if n % 5 else "test" for n in numbers],
            ]
            writer.write_table(pa.table(columns, schema=schema))


def measure(command: list[str]) -> None:
    """Run a command and print its time and peak memory."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "fungi_cli", *command], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    code = os.waitstatus_to_exitcode(status)
    print(
        f"fungi {' '.join(command)}\n    {seconds:.1f} s, {usage.ru_utime + usage.ru_stime:.1f} s "
        f"of CPU, peak {usage.ru_maxrss / 2**20:.2f} GiB, exit {code}",
        flush=True,
    )


if __name__ == "__main__":
    main()
