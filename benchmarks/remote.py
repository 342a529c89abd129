"""What a store at a URL costs beside the same store on a disk, with 20 ms of latency before S3.

    python benchmarks/remote.py knn [ROWS DIM]...     default: 50000 384 50000 1536
    python benchmarks/remote.py units [UNITS]         default: 20000, of 64 rows each

`knn` takes the time of `eval knn` on a disk and from S3 with an empty cache, then with a full one,
in turn within one run, and gives the ratios of the medians with their spread. `units` takes the
time of opening and of `status`, without and with a compacted object of records, directly from the
server and behind the proxy. The server is moto, a single process of Python, which is slow itself:
its own share of a listing is measured, too.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import fungistore as fungi
from fungistore.machine.context import QUIET
from fungistore.remote.bucket import Bucket, open_bucket
from fungistore.store.backend import open_backend
from fungistore.store.object_reads import COMPACTED, ObjectReads

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fault_proxy import Faults, proxied
from s3_world import end, environment, free_port, make_bucket, wait_for

LATENCY = 0.02
TURNS = 5
UNIT_ROWS, UNIT_DIM = 64, 4


def seconds(work: Callable[[], object]) -> float:
    """Return how long some work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@contextmanager
def server() -> Iterator[str]:
    """Yield the endpoint of an S3 server."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/moto-api/", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        end(process)


def use(endpoint: str) -> None:
    """Ask this endpoint from here on."""
    os.environ |= environment(endpoint)
    open_bucket.cache_clear()


def made(folder: Path, rows: int, dim: int, unit_rows: int | None = None) -> Path:
    """Make a store of random vectors in clusters."""
    random = np.random.default_rng(0)
    labels = np.arange(rows) % 100
    centres = random.normal(size=(100, dim)).astype(np.float32)
    vectors = centres[labels] + random.normal(size=(rows, dim)).astype(np.float32)
    np.save(folder / "vectors.npy", vectors.astype(np.float16))
    table = folder / "table.csv"
    lines = (
        f"{row:08d}.jpg,{label},{'test' if row % 10 == 0 else 'train'}\n"
        for row, label in enumerate(labels.tolist())
    )
    table.write_text("path,label,split\n" + "".join(lines))
    options = fungi.ImportOptions(table=str(table), unit_rows=unit_rows)
    fungi.import_features([folder / "vectors.npy"], folder / "s.fungi", options, context=QUIET)
    return folder / "s.fungi"


def spread(times: list[float]) -> str:
    """Return the median of some times, and the least and the most."""
    return f"{statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})"


def measure_knn(endpoint: str, rows: int, dim: int) -> None:
    """Print what `eval knn` takes here and there."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        local = made(folder, rows, dim)
        use(endpoint)
        url = f"s3://{make_bucket(endpoint)}/s.fungi"
        copied = fungi.copy_store(local, url, context=QUIET)
        faults = Faults(latency=LATENCY)
        options = fungi.KnnOptions(k=20)
        times: dict[str, list[float]] = {"disk": [], "S3": [], "S3 again": []}
        scores = set()
        with proxied(endpoint, faults) as proxy:
            use(proxy)
            for turn in range(TURNS + 1):  # the first one warms the process up
                os.environ["FUNGI_CACHE_DIR"] = str(folder / f"cache-{turn}")
                places = {"disk": str(local), "S3": url, "S3 again": url}
                for kind, place in places.items():
                    faults.requests.clear()
                    began = time.perf_counter()
                    found = fungi.evaluate_knn(place, options)
                    took = time.perf_counter() - began
                    scores.add(str(found.to_json()["scores"]))
                    if turn:
                        times[kind].append(took)
                    if turn == TURNS:
                        print(f"  {kind}: requests {dict(faults.requests)}")
        ratios = {
            kind: [there / here for here, there in zip(times["disk"], some, strict=True)]
            for kind, some in times.items()
        }
        print(
            f"{rows} x {dim}, {copied.units['total']} chunks; scores the same: {len(scores) == 1}"
        )
        for kind, some in times.items():
            ratio = ratios[kind]
            print(
                f"  {kind:9} {spread(some)}; x {statistics.median(ratio):.2f} "
                f"({min(ratio):.2f} to {max(ratio):.2f})"
            )


def measure_units(endpoint: str, units: int) -> None:
    """Print what opening and `status` take with many units."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        local = made(folder, units * UNIT_ROWS, UNIT_DIM, UNIT_ROWS)
        use(endpoint)
        url = f"s3://{make_bucket(endpoint)}/s.fungi"
        keys = [path.relative_to(local).as_posix() for path in local.rglob("*") if path.is_file()]
        uploading = seconds(
            lambda: open_bucket(url).put_all({key: [(local / key).read_bytes()] for key in keys})
        )
        print(f"{units} units of {UNIT_ROWS} rows; {len(keys)} objects put in {uploading:.0f} s")
        print(f"  disk: status {seconds(lambda: fungi.status(local)):.2f} s")
        (array,) = fungi.Store.open(local).feature_sets()
        folder_key = f"commits/{array}/embeddings"
        bucket = open_bucket(url)
        listing = seconds(lambda: list(bucket.below(folder_key)))
        print(f"  moto's own: a listing of {units} keys {listing:.2f} s")
        faults = Faults(latency=LATENCY)
        for state in ("no compacted object", "compacted, cache empty", "compacted, cache full"):
            with proxied(endpoint, faults) as proxy:
                use(proxy)
                if state != "compacted, cache full":
                    os.environ["FUNGI_CACHE_DIR"] = str(folder / state)
                if state == "compacted, cache empty":
                    use(endpoint)
                    reads: ObjectReads = open_backend(url)._reads  # type: ignore[attr-defined]
                    reads.compact(folder_key)
                    assert Bucket.find(bucket, f"{folder_key}/{COMPACTED}")
                    os.environ["FUNGI_CACHE_DIR"] = str(folder / "another")
                    use(proxy)
                faults.requests.clear()
                opening = seconds(lambda: fungi.Store.open(url))
                took = seconds(lambda: fungi.status(url))
                print(f"  {state}: open {opening:.2f} s, status {took:.2f} s, {faults.requests}")
        use(endpoint)
        print(f"  without latency, cache full: status {seconds(lambda: fungi.status(url)):.2f} s")


def main(words: list[str]) -> None:
    """Run what is asked for."""
    kind, *numbers = words or ["knn"]
    with server() as endpoint:
        if kind == "units":
            measure_units(endpoint, int(numbers[0]) if numbers else 20_000)
            return
        sizes = list(map(int, numbers)) or [50_000, 384, 50_000, 1536]
        for rows, dim in zip(sizes[::2], sizes[1::2], strict=True):
            measure_knn(endpoint, rows, dim)


if __name__ == "__main__":
    main(sys.argv[1:])
