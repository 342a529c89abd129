"""How fast a worker is: given, of a run's own words, of a store's records, or of our benchmarks."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from statistics import median

from fungistore.backbones.families import split_model
from fungistore.errors import UsageError
from fungistore.planning.content import Content
from fungistore.planning.measured import DECODED_PER_CORE, RATES, hardware, rate_of
from fungistore.planning.options import PlanOptions
from fungistore.planning.result import Known, Rate
from fungistore.quantities import counted
from fungistore.settings import refusal
from fungistore.store.commit import record_name
from fungistore.store.store import Store

PAUSES = 10  # times the usual time between two records: nobody worked in between
LEAST_RECORDS = 5  # that tell a rate
BENCHMARK = "python benchmarks/extract.py --device cuda --compile --model NAME measures one"


def worker_rate(options: PlanOptions, content: Content, store: Store | None) -> Rate:
    """Return the rate of one worker, scaled where that is asked for.

    Raises:
        UsageError: nothing tells it.
    """
    found = _unscaled(options, content, store)
    if options.scaling is None:
        return found
    low, high = options.scaling
    said = f"{found.source}; times {low:g} to {high:g} (--scaling)"
    return Rate(found.low * low, found.high * high, "given", said)


def _unscaled(options: PlanOptions, content: Content, store: Store | None) -> Rate:
    if options.rate is not None:
        return Rate(options.rate, options.rate, "given", "--rate")
    if options.measured is not None:
        return _of_a_run(Path(options.measured))
    name = options.scaled_from or options.gpu
    if name is not None:
        return _of_benchmarks(options, content, name)
    if store is not None and (found := recorded_rate(store, options)):
        return found
    raise UsageError(
        "nothing tells how fast a worker is",
        expected="--rate IMAGES_PER_SECOND, --measured FILE, --gpu NAME of one that was measured, "
        "or a STORE with the times of its records",
        hint="fungi extract SOURCE STORE --limit 1000 --json > run.json, then --measured run.json",
    )


def _of_a_run(path: Path) -> Rate:
    """Return the rate of one worker of a run, from what `fungi extract --json` has printed."""
    expected = "what `fungi extract --json` has printed, with images_per_second"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        workers = [one["images_per_second"] for one in document.get("workers", [document])]
        rates = [float(rate) for rate in workers if rate]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise refusal("--measured", expected, str(path)) from error
    if not rates:
        raise refusal("--measured", f"{expected} of a run that had something to do", str(path))
    said = f"{path.name}: {counted(len(rates), 'worker')}, {sum(rates):.4g} images/s together"
    return Rate(min(rates), max(rates), "measured", said)


def _of_benchmarks(options: PlanOptions, content: Content, name: str) -> Rate:
    _, model = split_model(content.model)
    size = content.image_size or 0
    found = rate_of(name, model.partition(".")[0], size, content.features, RATES)
    if found is not None:
        return Rate(found.low, found.high, "measured", found.source)
    known = sorted(
        {f"{m.model} at {m.image_size} px on {m.hardware}: {', '.join(m.features)}" for m in RATES}
    )
    asked = f"{content.model} at {size} px on {name}: {', '.join(content.features)}"
    other = f", or --scaled-from {hardware()[0]} --scaling LOW,HIGH" if name == options.gpu else ""
    raise UsageError(
        "no rate was measured for this, and none is made up",
        where=f"--scaled-from {name}" if options.scaled_from else f"--gpu {name}",
        expected=f"one of {'; '.join(known)}",
        found=asked,
        hint=f"--rate IMAGES_PER_SECOND of one worker{other}; {BENCHMARK}",
    )


def recorded_rate(store: Store, options: PlanOptions) -> Rate | None:
    """Return the rate at which a store was written, from the times of its records; None: unknown.

    Between two records lies what was committed with the second. A time that is far above the usual
    is a pause and is left out. A copy of a store has other times, and more workers than one write
    in between each other, so `--rate-of` says how many they were.
    """
    names = [options.feature_set] if options.feature_set else store.feature_sets()
    for array in store.arrays(names[0]).values() if len(names) == 1 else ():
        times: list[tuple[float, int]] = []
        for unit, commit in array.commits().items():
            with suppress(OSError):
                path = array.records.local_path(record_name(unit))
                times.append((os.stat(path).st_mtime, commit.rows))
        times.sort()
        gaps = [(b - a, rows) for (a, _), (b, rows) in pairwise(times)]
        usual = median([gap for gap, _ in gaps if gap > 0] or [0.0])
        worked = [(gap, rows) for gap, rows in gaps if gap <= PAUSES * usual]
        seconds = sum(gap for gap, _ in worked)
        if len(times) >= LEAST_RECORDS and seconds > 0:
            together = sum(rows for _, rows in worked) / seconds
            rate = together / options.rate_of
            said = (
                f"times of {counted(len(times), 'record')} of {array.name}, pauses left out: "
                f"{together:.4g} images/s by {counted(options.rate_of, 'worker')} (--rate-of)"
            )
            return Rate(rate, rate, "measured", said)
    return None


def reading(options: PlanOptions) -> tuple[float | None, Known]:
    """Return the images per second that a machine reads and decodes; None: no bound is known."""
    if options.read_rate is not None:
        rate = options.read_rate
        return rate, Known("reading", f"{rate:g} images/s a machine", "given", "--read-rate")
    if options.cores is not None:
        rate = options.cores * DECODED_PER_CORE
        said = f"{rate:.0f} images/s a machine of {counted(options.cores, 'core')}"
        source = (
            f"benchmarks/README.md: {DECODED_PER_CORE:g} images/s a core, JPEG of 375 x 500 drawn "
            "at 224 px; --cores"
        )
        return rate, Known("decoding", said, "measured", source)
    said = "keeps up with the workers"
    return None, Known("reading", said, "assumed", "no --read-rate, and no --cores")
