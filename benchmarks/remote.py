"""What a store at a URL costs beside the same store on a disk, with 20 ms of latency before S3.

    python benchmarks/remote.py knn [ROWS DIM]...     default: 50000 384 50000 1536
    python benchmarks/remote.py units [UNITS]         default: 20000, of 64 rows each
    python benchmarks/remote.py images [IMAGES MODEL] default: 400 vit_small_patch14_dinov2

`knn` takes the time of `eval knn` on a disk and from S3 with an empty cache, then with a full one,
in turn within one run, and gives the ratios of the medians with their spread. The server is moto,
which is slow itself: its floor is a plain download of the same chunks by obstore. `units` takes the
time of opening and of `status`, without and with a compacted object of records. There the server is
tests/plain_s3.py, since moto scans all keys for each page of a listing; its floor are the two
listings. `images` takes the time of `fungi extract` of small JPEG files, 96 pixels a side and each
an object, from S3 and from a folder of the disk, and of the same in shards, in turn; every store
has to have the same bits. Its floor is a plain download of the objects by obstore, beside which
nothing is computed. Proxy and servers are processes of their own.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import fungistore as fungi
from fungistore.machine.context import QUIET
from fungistore.remote.bucket import THREADS, Bucket, open_bucket
from fungistore.store.backend import open_backend
from fungistore.store.object_reads import COMPACTED, ObjectReads

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fault_proxy import Faults, proxied
from photographs import photographs
from plain_s3 import BUCKET
from s3_world import end, environment, free_port, make_bucket, wait_for

LATENCY = 0.02
PLAIN = Path(__file__).parents[1] / "tests" / "plain_s3.py"
TURNS = 5
SIDE = 96  # pixels of a small image, some 4 KB
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
    np.save(folder / "vectors.npy", vectors)
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


class Place:
    """A child process that serves, and counts what it is asked for."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.endpoint = f"http://127.0.0.1:{self._said()}"

    def _said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def requests(self) -> str:
        """Return how many requests came since this was asked last."""
        print(file=self.process.stdin, flush=True)
        return self._said()

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *error: object) -> None:
        end(self.process)  # type: ignore[arg-type]


def be_proxy(target: str) -> None:
    """Be a proxy with latency; a line asks for the requests since the last one."""
    faults = Faults(latency=LATENCY)
    with proxied(target, faults) as endpoint:
        print(endpoint.rpartition(":")[2], flush=True)
        for _ in sys.stdin:
            print(dict(faults.requests), flush=True)
            faults.requests.clear()


def downloaded(url: str) -> int:
    """Download the chunks of a store, many at once; returns their bytes."""
    bucket = open_bucket(url)
    keys = [head.key for head in bucket.below("features.zarr") if "/c/" in head.key]
    with ThreadPoolExecutor(THREADS) as pool:
        return sum(map(len, pool.map(bucket.get, keys)))


def measure_knn(endpoint: str, rows: int, dim: int) -> None:
    """Print what `eval knn` takes here and there."""
    with TemporaryDirectory() as name, Place(__file__, "proxy", endpoint) as proxy:
        folder = Path(name)
        local = made(folder, rows, dim)
        use(endpoint)
        url = f"s3://{make_bucket(endpoint)}/s.fungi"
        copied = fungi.copy_store(local, url, context=QUIET)
        options = fungi.KnnOptions(k=20)
        places = {"disk": str(local), "S3": url, "S3 again": url, "download": url}
        times: dict[str, list[float]] = {kind: [] for kind in places}
        scores, said = set(), []
        use(proxy.endpoint)
        for turn in range(TURNS + 1):  # the first one warms the process up
            os.environ["FUNGI_CACHE_DIR"] = str(folder / f"cache-{turn}")
            for kind, place in places.items():
                began = time.perf_counter()
                if kind == "download":
                    count = downloaded(place)
                else:
                    scores.add(str(fungi.evaluate_knn(place, options).to_json()["scores"]))
                took = time.perf_counter() - began
                asked = proxy.requests()
                if turn:
                    times[kind].append(took)
                if turn == TURNS:
                    said.append(f"  {kind}: requests {asked}")
        print(
            f"{rows} x {dim}, {copied.units['total']} chunks, {count / 1e6:.0f} MB; scores the "
            f"same: {len(scores) == 1}; load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores"
        )
        print(*said, sep="\n")
        for kind, some in times.items():
            ratio = [there / here for here, there in zip(times["disk"], some, strict=True)]
            print(
                f"  {kind:9} {spread(some)}; x {statistics.median(ratio):.2f} "
                f"({min(ratio):.2f} to {max(ratio):.2f})",
                flush=True,
            )


def measure_units(units: int) -> None:
    """Print what opening and `status` take with many units."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        local = made(folder, units * UNIT_ROWS, UNIT_DIM, UNIT_ROWS)
        print(f"{units} units of {UNIT_ROWS} rows; load {os.getloadavg()[0]:.0f}", flush=True)
        print(f"  disk: status {seconds(lambda: fungi.status(local)):.2f} s", flush=True)
        (array,) = fungi.Store.open(local).feature_sets()
        records = f"commits/{array}/embeddings"
        with Place(str(PLAIN), str(local), str(LATENCY)) as server:
            use(server.endpoint)
            url = f"s3://{BUCKET}/s.fungi"
            bucket = open_bucket(url)
            for key in (records, f"features.zarr/{array}/embeddings/c"):
                took = seconds(lambda key=key: list(bucket.below(key)))  # type: ignore[misc]
                print(f"  the server's own: a listing of {key} {took:.2f} s", flush=True)
            for state in ("no compacted object", "compacted, cache empty", "compacted, cache full"):
                if state != "compacted, cache full":
                    os.environ["FUNGI_CACHE_DIR"] = str(folder / state)
                if state == "compacted, cache empty":
                    reads: ObjectReads = open_backend(url)._reads  # type: ignore[attr-defined]
                    reads.compact(records)
                    assert Bucket.find(bucket, f"{records}/{COMPACTED}")
                    os.environ["FUNGI_CACHE_DIR"] = str(folder / "another")
                server.requests()
                opening = seconds(lambda: fungi.Store.open(url))
                cpu = time.process_time()
                took = seconds(lambda: fungi.status(url))
                cpu = time.process_time() - cpu
                print(
                    f"  {state}: open {opening:.2f} s, status {took:.2f} s ({cpu:.2f} s of CPU), "
                    f"{server.requests()}",
                    flush=True,
                )


def write_images(folder: Path, count: int) -> None:
    """Write small photographs, and the same in two shards beside them."""
    for place in ("images", "shards"):
        (folder / place).mkdir()
    images = photographs(16)
    for number in range(count):
        left, top = 7 * number % 200, 11 * number % 200
        crop = Image.fromarray(images[number % 16]).crop((left, top, left + SIDE, top + SIDE))
        crop.save(folder / "images" / f"{number:06d}.jpg", quality=90)
    files = sorted((folder / "images").iterdir())
    for number in range(2):
        with tarfile.open(folder / "shards" / f"{number}.tar", "w") as tar:
            for path in files[number * count // 2 : (number + 1) * count // 2]:
                tar.add(path, path.name)


def stored(store: Path) -> str:
    """Return a digest of a store's chunks, in the order of their units."""
    every = sorted(path for path in store.rglob("*") if path.is_file() and "/c/" in str(path))
    return hashlib.sha256(b"".join(path.read_bytes() for path in every)).hexdigest()


def measure_images(endpoint: str, count: int, model: str) -> None:
    """Print what extraction takes here and there."""
    with TemporaryDirectory() as name, Place(__file__, "proxy", endpoint) as proxy:
        folder, weights = Path(name), Path(name, "random.safetensors")
        torch.manual_seed(0)
        save_file(timm.create_model(model, num_classes=0).state_dict(), weights)
        write_images(folder, count)
        use(endpoint)
        bucket = f"s3://{make_bucket(endpoint)}"
        for kind in ("images", "shards"):
            for path in (folder / kind).iterdir():
                open_bucket(bucket).put(f"{kind}/{path.name}", path.read_bytes())
        options = fungi.ExtractOptions(
            model=model,
            weights=weights,
            image_size=224,
            features=("embeddings",),
            batch_size=16,
            unit_rows=64,
        )
        use(proxy.endpoint)
        os.environ["FUNGI_CACHE"] = str(folder / "cache")
        keys = [head.key for head in open_bucket(bucket).below("images")]
        places = {
            "disk": str(folder / "images"),
            "S3": f"{bucket}/images",
            "shards": str(folder / "shards"),
            "S3 shards": f"{bucket}/shards",
        }
        times: dict[str, list[float]] = {kind: [] for kind in (*places, "download")}
        bits, asked = set(), {}
        for turn in range(TURNS + 1):  # the first one warms the process up
            for kind in times:
                proxy.requests()
                store = folder / f"{kind} {turn}.fungi"
                if kind == "download":
                    with ThreadPoolExecutor(THREADS) as pool:
                        work = partial(list, pool.map(open_bucket(bucket).get, keys))
                        took = seconds(work)
                else:
                    took = seconds(
                        partial(fungi.extract, places[kind], store, options, context=QUIET)
                    )
                    bits.add(stored(store))
                asked[kind] = proxy.requests()
                if turn:
                    times[kind].append(took)
        print(
            f"{count} images of {SIDE} pixels, {model} at 224; bits the same: {len(bits) == 1}; "
            f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
        )
        for kind, some in times.items():
            base = times["shards" if kind == "S3 shards" else "disk"]
            ratio = [there / here for here, there in zip(base, some, strict=True)]
            print(
                f"  {kind:9} {spread(some)}; x {statistics.median(ratio):.2f} "
                f"({min(ratio):.2f} to {max(ratio):.2f}); requests {asked[kind]}",
                flush=True,
            )


def main(words: list[str]) -> None:
    """Run what is asked for."""
    kind, *numbers = words or ["knn"]
    if kind == "proxy":
        be_proxy(numbers[0])
        return
    if kind == "units":
        measure_units(int(numbers[0]) if numbers else 20_000)
        return
    if kind == "images":
        count, model = (*numbers, *("400", "vit_small_patch14_dinov2")[len(numbers) :])
        with server() as endpoint:
            measure_images(endpoint, int(count), model)
        return
    with server() as endpoint:
        sizes = list(map(int, numbers)) or [50_000, 384, 50_000, 1536]
        for rows, dim in zip(sizes[::2], sizes[1::2], strict=True):
            measure_knn(endpoint, rows, dim)


if __name__ == "__main__":
    main(sys.argv[1:])
