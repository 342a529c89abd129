"""`fungi plan`: sizes against real stores, rates against their sources, limits and money."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from fungi_cli.main import app
from typer.testing import CliRunner

import fungistore as fungi
from fungistore.errors import UsageError
from fungistore.extraction.growth import growth_of_units
from fungistore.extraction.plan import Gap
from fungistore.planning.content import Content, content_of_model
from fungistore.planning.measured import (
    DECODED_PER_CORE,
    KNN_MINUTES,
    PCA_MINUTES,
    RATES,
    Measured,
    rate_of,
)
from fungistore.planning.memory import index_bytes
from fungistore.planning.storage import storage
from fungistore.store.commit import record_name
from fungistore.store.store import Store
from tiny_world import TINY, write_images

ROOT = Path(__file__).parents[2]
FEATURES = ("embeddings", "kl", "patches")
BASE = "vit_base_patch16_224"


def options(**given: Any) -> fungi.PlanOptions:
    """Options of a plan whose time does not pass."""
    return fungi.PlanOptions(**{"start": "2030-01-31T09:00", "node_memory": 64, **given})


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> Store:
    """Forty-three images in units of eight, by a real model."""
    folder = tmp_path_factory.mktemp("plan")
    write_images(folder / "images", 43)
    asked = fungi.ExtractOptions(
        model=TINY,
        weights=str(tiny_weights),
        image_size=64,
        features=FEATURES,
        unit_rows=8,
        device="cpu",
    )
    fungi.extract(folder / "images", folder / "s.fungi", asked)
    return Store.open(folder / "s.fungi")


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_plan_has_the_bytes_and_files_of_the_real_store(extracted: Store) -> None:
    """Array by array, and every record: what was planned without weights is what was written."""
    root = Path(extracted.where)
    asked = options(model=TINY, image_size=64, features=FEATURES, unit_rows=8, images=43, rate=10.0)
    planned = fungi.plan(None, asked)
    real = {array.name: array for array in fungi.status(extracted).feature_sets[0].arrays}
    assert {one.name for one in planned.storage.arrays} == set(real)
    for one in planned.storage.arrays:
        assert one.bytes == real[one.name].bytes
        assert (43, *one.row_shape) == real[one.name].shape
        assert one.dtype == real[one.name].dtype
        chunks = [
            p
            for p in files_below(root / "features.zarr" / TINY / one.name)
            if "c" in p.relative_to(root / "features.zarr" / TINY / one.name).parts
        ]
        assert len(chunks) == one.files == planned.units
    beside = [*files_below(root / "commits"), *files_below(root / "contents")]
    assert len(beside) == planned.storage.record_files
    assert sum(path.stat().st_size for path in beside) == planned.storage.record_bytes


def test_a_store_tells_the_same_as_its_model(extracted: Store) -> None:
    """Widths, units and model are read from it; a chosen part of its features counts alone."""
    of_model = fungi.plan(
        None,
        options(model=TINY, image_size=64, features=FEATURES, unit_rows=8, images=5000, rate=9),
    )
    of_store = fungi.plan(extracted, options(images=5000, rate=9))
    assert {(a.name, a.bytes, a.files) for a in of_store.storage.arrays} == {
        (a.name, a.bytes, a.files) for a in of_model.storage.arrays
    }
    assert of_store.storage.bytes == of_model.storage.bytes
    assert of_store.simulation == of_model.simulation
    assert (of_store.model, of_store.unit_rows) == (TINY, 8)
    assert {use.what: use.bytes for use in of_store.memory} == {
        use.what: use.bytes for use in of_model.memory
    }
    some = fungi.plan(extracted, options(rate=9, features=("kl",)))
    assert some.images == 43
    assert [one.name for one in some.storage.arrays] == ["gradients/kl", "norms/kl"]
    for wrong in ({"model": TINY}, {"features": ("dino",)}, {"feature_set": "other"}):
        with pytest.raises(UsageError):
            fungi.plan(extracted, options(rate=9, **wrong))


def test_compressed_chunks_of_a_store_are_measured(
    extracted: Store, tiny_weights: Path, tmp_path: Path
) -> None:
    """An upper bound before anything is there; from a store, the mean of its full chunks."""
    images = Path(extracted.where).parent / "images"
    asked = fungi.ExtractOptions(
        model=TINY,
        weights=str(tiny_weights),
        image_size=64,
        features=("patches",),
        unit_rows=8,
        codec="bitround",
        device="cpu",
        limit=40,
    )
    fungi.extract(images, tmp_path / "z.fungi", asked)
    real = sum(a.bytes for a in fungi.status(tmp_path / "z.fungi").feature_sets[0].arrays)
    of_store = fungi.plan(tmp_path / "z.fungi", options(rate=9, images=40))
    of_model = fungi.plan(
        None,
        options(
            model=TINY,
            image_size=64,
            features=("patches",),
            unit_rows=8,
            codec="bitround",
            images=40,
            rate=9,
        ),
    )
    assert sum(a.bytes for a in of_store.storage.arrays) == pytest.approx(real, abs=1)
    assert not of_store.storage.are_most
    assert of_model.storage.are_most
    assert sum(a.bytes for a in of_model.storage.arrays) > real


@pytest.mark.parametrize("images", [1, 7, 8, 9, 80, 83, 807, 8005])
@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_storage_is_the_sum_of_every_unit(images: int, codec: str) -> None:
    """Counted by kinds of units, it is what the dry run adds up unit by unit."""
    content = replace(_content(), codec=codec)
    found = storage(content, images, 8, 1)
    asked = frozenset(array.asked for array in content.arrays)
    units = -(-images // 8)
    gaps = [Gap(u, 8 * u, min(images, 8 * u + 8), asked) for u in range(units)]
    assert found.bytes == growth_of_units(gaps, content.arrays, {}, 8, 1, content.codec, {})
    assert found.files == units * (2 * len(content.arrays) + 1)


def _content() -> Content:
    return content_of_model(options(model=TINY, features=FEATURES, image_size=64))


def test_shards_share_files_and_have_an_index() -> None:
    """Of 112 chunks, sixteen a file: seven files and records an array."""
    plain, sharded = (storage(_content(), 896, 8 * units, units) for units in (1, 16))
    arrays = len(plain.arrays)
    assert [one.files for one in sharded.arrays] == [7] * arrays
    assert sharded.record_files * 16 == plain.record_files
    chunks, shards = (sum(one.bytes for one in stored.arrays) for stored in (plain, sharded))
    assert shards - chunks == arrays * 7 * (16 * 16 + 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "factory", ["Flat", "HNSW32", "IVF16,Flat", "OPQ2_16,IVF16,PQ2", "IVF16,PQ2"]
)
def test_an_index_is_as_large_as_faiss_writes_it(factory: str, tmp_path: Path) -> None:
    """Of each kind that is chosen, with ids, five thousand vectors: within 3 %."""
    vectors = np.random.default_rng(0).standard_normal((5_000, 16), np.float32)
    index = faiss.index_factory(16, factory)
    if not factory.startswith(("IVF", "OPQ")):
        index = faiss.IndexIDMap(index)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    index.train(vectors[:300])
    index.add_with_ids(vectors, np.arange(5_000))
    faiss.omp_set_num_threads(threads)
    faiss.write_index(index, str(tmp_path / "i.faiss"))
    real = (tmp_path / "i.faiss").stat().st_size
    assert index_bytes(factory, 5_000, 16) == pytest.approx(real, rel=0.03)


def test_every_measured_rate_is_a_line_of_the_benchmarks() -> None:
    """The table cannot say what was not measured: its numbers stand in the README and the docs."""
    page = (ROOT / "benchmarks" / "README.md").read_text()
    gpu, cpu = page.partition("One NVIDIA H200")[2], page.partition("One NVIDIA H200")[0]
    for one in RATES:
        names = ", ".join(one.features)
        if one.hardware == "h200":
            assert re.search(rf"^\| {names} \| \d+ \| {one.images_per_second:g} \|", gpu, re.M)
            assert "ViT-B/16 at 224, bfloat16, compiled" in gpu
        else:
            row = rf"^\| {names} \| float32 \| [\d.]+ \| {one.images_per_second:g} \|"
            assert re.search(row, cpu, re.M)
    assert f"two\n  processes {2 * DECODED_PER_CORE:g};" in cpu
    scale = (ROOT / "docs" / "scale.md").read_text()
    assert f"| `fungi pca --dim 256` | {PCA_MINUTES} |" in scale
    assert f"| `fungi eval knn` | {KNN_MINUTES} |" in scale


def test_rates_of_parts_bound_the_whole() -> None:
    """Measured together, that; measured apart, between one after the other and the slowest."""

    def of(*features: str, name: str = "h200", size: int = 224, model: str = BASE) -> Any:
        return rate_of(name, model, size, features, RATES)

    assert (of("kl").low, of("kl").high) == (9999, 9999)
    assert (of("kl", "embeddings").low, of("kl", "embeddings").high) == (9999, 9999)
    both = of("embeddings", "kl", "dino")
    assert both.low == pytest.approx(1 / (1 / 9999 + 1 / 864))
    assert both.high == 864
    assert of("embeddings").high == 11557
    assert of("kl", name="H200").high == 9999
    assert of("kl", "simclr") is None
    assert of("kl", name="h100") is of("kl", size=518) is of("kl", model="vit_huge") is None
    small = Measured("x", "m", 1, "", ("embeddings", "kl"), 2.0)
    assert rate_of("x", "m", 1, ("embeddings",), [small]) is None


def test_no_rate_is_made_up() -> None:
    """Hardware that was not measured needs a rate, or a factor that says how sure one is."""
    asked = {"model": BASE, "images": 1000, "features": ("kl",)}
    with pytest.raises(UsageError, match="none is made up") as refused:
        fungi.plan(None, options(gpu="h100", **asked))
    assert refused.value.where == "--gpu h100"
    assert "--rate" in str(refused.value.hint)
    with pytest.raises(UsageError, match="how fast"):
        fungi.plan(None, options(**asked))
    with pytest.raises(UsageError, match="scaled-from"):
        options(gpu="h100", scaled_from="h200", **asked)
    with pytest.raises(UsageError, match="scaling"):
        options(scaling=(2.0, 1.0), rate=3, **asked)
    scaled = fungi.plan(None, options(gpu="h100", scaled_from="h200", scaling="0.5,0.9", **asked))
    assert (scaled.rate.low, scaled.rate.high) == pytest.approx((0.5 * 9999, 0.9 * 9999))
    assert scaled.rate.origin == "given"
    assert "h200" in scaled.rate.source
    assert scaled.simulation.seconds.low < scaled.simulation.seconds.high
    sources = {one.name: one.origin for one in fungi.plan(None, options(gpu="h200", **asked)).known}
    assert sources == {
        "images": "given",
        "features": "computed",
        "rate": "measured",
        "reading": "assumed",
        "unit": "computed",
        "loading": "assumed",
        "memory": "given",
    }


@pytest.mark.parametrize(
    "given",
    [
        {"rate": 1e300},
        {"rate": 1e-300},
        {"rate": 100.0, "read_rate": 1e-300},
        {"rate": 100.0, "scaling": (1e-300, 1e300)},
    ],
)
def test_rates_beyond_reckoning_are_refused(given: dict[str, Any]) -> None:
    """What overflows is a mistake of a flag, which is named."""
    with pytest.raises(UsageError, match="as slow or as fast") as raised:
        fungi.plan(None, options(model=TINY, images=10**6, **given))
    assert "--rate" in str(raised.value.where)


def test_a_run_tells_its_rate(tmp_path: Path) -> None:
    """What extract has printed: of one process, or of each of several workers."""
    asked = {"model": TINY, "images": 1000}
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"images_per_second": 31.5}))
    assert fungi.plan(None, options(measured=str(path), **asked)).rate.low == 31.5
    workers = [{"images_per_second": rate} for rate in (20.0, 24.0, 0.0)]
    path.write_text(json.dumps({"images_per_second": 44.0, "workers": workers}))
    found = fungi.plan(None, options(measured=str(path), **asked)).rate
    assert (found.low, found.high, found.origin) == (20.0, 24.0, "measured")
    for text in ("", "[]", "{}", '{"images_per_second": 0}', '{"images_per_second": "x"}'):
        path.write_text(text)
        with pytest.raises(UsageError, match="measured"):
            fungi.plan(None, options(measured=str(path), **asked))
    with pytest.raises(UsageError, match="measured"):
        fungi.plan(None, options(measured=str(tmp_path / "none"), **asked))


def test_records_of_a_store_tell_its_rate(extracted: Store, tmp_path: Path) -> None:
    """Eight rows each two seconds, with a pause of a day and a half: four a second, by two."""
    array = extracted.arrays(TINY)["embeddings"]
    for unit in range(array.units):
        at = 1_000_000_000 + 2 * unit + 130_000 * (unit > 2)
        os.utime(array.records.local_path(record_name(unit)), (at, at))
    found = fungi.plan(extracted, options(features=("embeddings",), rate_of=2)).rate
    rows = [8, 8, 8, 3]  # committed with the second record and later ones, but that after the pause
    assert found.low == found.high == pytest.approx(sum(rows) / 8 / 2)
    assert "--rate-of" in found.source


def test_few_records_tell_no_rate(extracted: Store, tiny_weights: Path, tmp_path: Path) -> None:
    """Two units have one time between them, of which nobody knows what it is of."""
    asked = fungi.ExtractOptions(
        model=TINY,
        weights=str(tiny_weights),
        image_size=64,
        features=("embeddings",),
        unit_rows=8,
        device="cpu",
        limit=16,
    )
    fungi.extract(Path(extracted.where).parent / "images", tmp_path / "few.fungi", asked)
    with pytest.raises(UsageError, match="how fast"):
        fungi.plan(tmp_path / "few.fungi", options())
    assert fungi.plan(tmp_path / "few.fungi", options(rate=7)).rate.low == 7


def test_reading_holds_workers_up() -> None:
    """A machine's workers share what it reads; from cores, by our measurement."""
    asked = {"model": BASE, "features": ("kl",), "images": 10**6, "gpu": "h200"}
    shared = fungi.plan(None, options(read_rate=1000, gpus_per_node=4, **asked))
    assert shared.worker_rate == (250, 250)
    assert any("hold the GPUs up" in limit.what for limit in shared.limits)
    cores = fungi.plan(None, options(cores=16, **asked))
    assert cores.worker_rate[0] == 16 * DECODED_PER_CORE
    fast = fungi.plan(None, options(read_rate=1e6, **asked))
    assert fast.worker_rate == (9999, 9999)
    assert not any("hold the GPUs up" in limit.what for limit in fast.limits)


def test_hours_dates_and_money_follow_from_each_other() -> None:
    """3,600,000 images at 100/s on two machines, to be checked by hand."""
    done = fungi.plan(
        None,
        options(
            model=TINY,
            images=3_600_000,
            rate=100,
            nodes=2,
            unit_rows=1024,
            load_seconds=0,
            price_per_hour=3,
            storage_price=20,
            request_price=5,
            currency="EUR",
        ),
    )
    units = -(-3_600_000 // 1024)
    rounds = -(-units // 2)
    hours = rounds * (3_600_000 / units) / 100 / 3600
    assert done.hours == pytest.approx((hours, hours, hours))
    assert datetime.fromisoformat(str(done.ends_high)) == datetime(2030, 1, 31, 14, 0)
    cost = done.cost
    assert cost.machines == cost.machines_high == pytest.approx(2 * hours * 3)
    assert cost.storage_per_month == pytest.approx(done.storage.bytes / 1e12 * 20)
    assert cost.requests == pytest.approx(done.storage.files / 1000 * 5)
    assert cost.currency == "EUR"
    free = fungi.plan(None, options(model=TINY, images=10, rate=1))
    assert (free.cost.machines, free.cost.storage_per_month, free.cost.requests) == (None,) * 3


def test_units_are_what_extract_would_choose() -> None:
    """A minute of vectors, a hundred megabytes of patch tensors, at most 65,536 rows."""

    def rows(**given: Any) -> int:
        return fungi.plan(None, options(images=10**6, **given)).unit_rows

    assert rows(model=TINY, rate=100, features=("embeddings",)) == 4096
    assert rows(model=TINY, rate=1e6, features=("embeddings",)) == 65_536
    small = "vit_small_patch14_dinov2"
    assert rows(model=small, image_size=518, features=("patches",), rate=400) == 64
    assert rows(model=TINY, rate=100, unit_rows=16) == 16


def test_memory_is_that_of_the_model_and_its_units() -> None:
    """ViT-B/16 on four GPUs: its weights, its projection, SimCLR's 256 x 49 latents of 96."""
    asked = options(model=BASE, images=10**6, rate=100, gpus_per_node=4, features=("kl", "simclr"))
    uses = {use.what: use.bytes for use in fungi.plan(None, asked).memory}
    assert uses["the model, in float32"] == 4 * 4 * 85_798_656
    assert uses["the projection of gradients"] == 4 * 4 * 768 * 768 * 769
    assert uses["banks"] == 4 * 256 * 49 * 96 * 4
    assert uses["a unit's rows"] == 4 * 4096 * 2 * (768 * 2 + 4)
    assert uses["a PCA of 1536 values"] == 3 * 8 * 1536**2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"images": 10**8, "unit_rows": 64}, "many files"),
        ({"images": 10**8, "node_disk": 10}, "larger than the disk"),
        ({"images": 10**8, "node_memory": 1}, "the index of all vectors does not fit"),
        ({"images": 10**5, "mtbf": 0.01}, "much work is lost"),
        ({"images": 10**5, "mtbf": 0.0001, "restart_minutes": 0.01}, "it never ends"),
        ({"images": 1000, "nodes": 16}, "few units"),
        ({"images": 10**6, "mtbf": 99, "lease_seconds": 4000}, "wait for their leases"),
        ({"images": 10**9}, "fungi pca takes"),
        ({"images": 10**8}, "exact neighbours of every row"),
        ({"images": 10**6, "shard_units": 2**14, "node_memory": 2}, "units and batches"),
    ],
)
def test_it_says_where_it_breaks(given: dict[str, Any], said: str) -> None:
    """Each limit where it is met, with what to try."""
    asked = {"model": BASE, "rate": 500, **given}
    found = fungi.plan(None, options(**asked)).limits
    assert any(said in limit.what for limit in found), [limit.what for limit in found]
    assert all(limit.hint and limit.found for limit in found)


def test_where_nothing_breaks_nothing_is_said() -> None:
    """None of the limits above is met."""
    fine = fungi.plan(None, options(model=BASE, rate=500, images=300_000, node_disk=1000, mtbf=999))
    assert fine.limits == ()


def test_shards_that_are_advised_help() -> None:
    """The hint of many files names a number of chunks a file that mends it."""
    asked = {"model": BASE, "rate": 500, "images": 10**8, "unit_rows": 64, "features": ("kl",)}
    hint = next(x for x in fungi.plan(None, options(**asked)).limits if "files" in x.what).hint
    advised = int(re.findall(r"--shard-units (\d+)", hint)[0])
    stored = fungi.plan(None, options(**asked, shard_units=advised)).storage
    assert stored.files <= 10**6


def test_failures_and_preemptions_cost_time() -> None:
    """More of them, more hours; both are counted."""
    asked = {"model": TINY, "images": 10**7, "rate": 100, "nodes": 8}
    calm, rough = (
        fungi.plan(None, options(**asked, **trouble))
        for trouble in ({}, {"mtbf": 20, "preempted_every": 5})
    )
    assert calm.simulation.runs == 1
    assert rough.hours[0] > calm.hours[0]
    assert rough.simulation.failures.mean > 1
    assert rough.simulation.preemptions.mean > rough.simulation.failures.mean
    assert fungi.plan(None, options(**asked, mtbf=20)) == fungi.plan(
        None, options(**asked, mtbf=20)
    )


def test_images_of_a_source_are_counted(tmp_path: Path) -> None:
    """A folder says how many they are, unless a flag does."""
    write_images(tmp_path / "images", 5)
    asked = options(model=TINY, rate=10)
    assert fungi.plan(tmp_path / "images", asked).images == 5
    assert fungi.plan(str(tmp_path / "images"), replace(asked, images=9)).images == 9
    (tmp_path / "empty").mkdir()
    for nothing, said in ((tmp_path / "empty", "no images"), (None, "how many images")):
        with pytest.raises(UsageError, match=said):
            fungi.plan(nothing, asked)
    for model, said in ((None, "nothing says"), ("text:somewhere", "not known before")):
        with pytest.raises(UsageError, match=said):
            fungi.plan(None, options(model=model, rate=10, images=3))


def test_a_hundred_million_images_take_a_moment() -> None:
    """Sixteen nodes of eight GPUs, patch tensors, failures: two seconds beside the imports."""
    asked = options(
        model="vit_small_patch14_dinov2",
        image_size=518,
        features=("patches", "embeddings"),
        images=10**8,
        nodes=16,
        gpus_per_node=8,
        rate=400,
        mtbf=100,
        node_spread=0.05,
        unit_spread=0.1,
    )
    fungi.plan(None, replace(asked, images=1000, nodes=1))
    began = time.process_time()
    done = fungi.plan(None, asked)
    assert time.process_time() - began < 3  # outlining the model included
    assert done.units == 1_562_500


def test_the_command_prints_a_plan() -> None:
    """As one JSON object that can be read, or as tables; what is assumed is said on stderr."""
    words = [
        "plan",
        "--model",
        TINY,
        "--images",
        "100000000",
        "--rate",
        "50",
        "--nodes",
        "2",
        "--mtbf",
        "30",
        "--price-per-hour",
        "2",
        "--start",
        "2030-01-01",
    ]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["cluster"]["nodes"][0]["count"] == 2
    assert document["hours"]["low"] <= document["hours"]["mean"] <= document["hours"]["high"]
    assert {one["origin"] for one in document["known"]} == {
        "given",
        "computed",
        "assumed",
        "measured",
    }
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0
    for part in ("100,000,000 images", "simulated runs", "together", "BREAKS", "machines", "USD"):
        assert part in shown.stdout
    assert "what is assumed" in shown.stderr
    assert CliRunner().invoke(app, ["plan", "--model", TINY]).exit_code == 2


def test_the_benchmark_compares_a_run_with_its_simulation(tmp_path: Path) -> None:
    """Facts of a run in a file: each measured number beside the predicted one."""
    facts = {
        "units": 40,
        "nodes": [
            {"unit_seconds": 1.5, "outages": [{"at": 20.0, "back": 31.0}]},
            {"unit_seconds": 2.0},
        ],
        "measured": {"seconds": 41.0, "units_by_node": [20, 20]},
    }
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    script = [sys.executable, str(ROOT / "benchmarks" / "plan.py"), str(tmp_path / "facts.json")]
    done = subprocess.run(script, capture_output=True, text=True, check=True, cwd=ROOT)
    del facts["measured"]
    took = fungi.simulate(fungi.Cluster.from_json(facts))
    assert done.stdout.splitlines() == [
        f"seconds: predicted {took.seconds.mean:.1f}, measured 41.0, "
        f"ratio {took.seconds.mean / 41:.2f}",
        f"units of node 0: predicted {took.by_node[0]:.1f}, measured 20.0, "
        f"ratio {took.by_node[0] / 20:.2f}",
        f"units of node 1: predicted {took.by_node[1]:.1f}, measured 20.0, "
        f"ratio {took.by_node[1] / 20:.2f}",
    ]
