"""`fungi plan`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated

import typer

import fungistore as fungi
from fungistore.quantities import counted, size

from ..flags import Json, command
from ..output import note, result_json
from ..starting import announced_imports
from ..tables import show_table, show_text

YEARS = 24 * 365  # hours; beyond them an hour says nothing


@command
def plan(
    *,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE",
            help="Images, which are counted, or a STORE, which tells sizes and rates.",
        ),
    ] = None,
    options: fungi.PlanOptions,
    as_json: Json = False,
) -> None:
    """Say what a large extraction takes, and where it breaks.

    Hours, bytes, files, memory, index, cost. Machines that fail and come back are simulated.
    No rate is made up: it is given, or was measured by the run that wrote STORE, or by our
    benchmarks on the very hardware and model. Nothing is extracted, downloaded or written.

    \b
    Examples:
      fungi plan --model vit_base_patch16_224 --images 100000000 --nodes 16 \\
        --gpu h200 --features kl --cores 16 --mtbf 500
      fungi plan --model vit_small_patch14_dinov2 --features patches --json \\
        --images 1000000 --rate 400 --shard-units 64 --storage-price 23
      fungi plan pets.fungi --images 1000000 --rate 300 --preempted-every 6
    """
    with announced_imports():
        done = fungi.plan(source, options)
    result_json(done.to_json()) if as_json else _show(done)


def _show(done: fungi.Plan) -> None:
    show_table(
        ("from", "", "", "source"),
        [(one.name, one.value, one.origin, one.source) for one in done.known],
        left=("from", "", "source"),
        folded=("source",),
    )
    show_text()
    for line in _times(done):
        show_text(line)
    show_text()
    stored = done.storage
    most = "at most " if stored.are_most else ""
    rows = [
        (
            array.name,
            "x".join(map(str, array.row_shape)) or "1",
            array.dtype,
            size(array.bytes),
            f"{array.files:,}",
        )
        for array in stored.arrays
    ]
    beside = ("records, digests", "", "", size(stored.record_bytes), f"{stored.record_files:,}")
    whole = ("together", "", "", f"{most}{size(stored.bytes)}", f"{stored.files:,}")
    show_table(
        ("array", "shape", "type", "size", "files"),
        [*rows, beside, whole],
        left=("array", "type"),
    )
    show_text()
    show_table(
        ("memory of a machine", "size", "of"),
        [(use.what, size(use.bytes), use.where) for use in done.memory],
        left=("memory of a machine", "of"),
    )
    if done.indexes:
        show_text()
        show_table(
            ("index of", "width", "factory", "size", "reason"),
            [
                (one.of, str(one.dim), one.factory, size(one.bytes), one.reason)
                for one in done.indexes
            ],
            left=("index of", "factory", "reason"),
            folded=("reason",),
        )
        show_text()
        show_table(
            ("later, on two cores", "hours", "from"),
            [(one.what, _hours(one.hours), one.source) for one in done.stages],
            left=("later, on two cores", "from"),
            folded=("from",),
        )
    if costs := list(_costs(done)):
        show_text()
        show_table(("cost", done.cost.currency, ""), costs, left=("cost", ""))
    show_text()
    for limit in done.limits:
        show_text(f"BREAKS  {limit.what}: {limit.found}")
        show_text(f"        try: {limit.hint}")
    if not done.limits:
        show_text("nothing was found that breaks")
    if any(one.origin == "assumed" for one in done.known):
        note("what is assumed was measured by nobody: give what your machines do")


def _times(done: fungi.Plan) -> Iterator[str]:
    simulation = done.simulation
    low, high = (f"{rate:.4g}" for rate in done.worker_rate)
    rate = low if low == high else f"{low} to {high}"
    yield (
        f"{done.images:,} images of {', '.join(done.features)}: {done.units:,} units of "
        f"{done.unit_rows:,} rows, {counted(done.workers, 'worker')} at {rate} images/s"
    )
    mean, least, most = map(_hours, done.hours)
    runs = counted(simulation.runs, "simulated run")
    if simulation.runs == 1:
        said = f"{mean} hours, of {runs}: nothing is left to chance"
    else:
        said = f"{mean} hours; nine of ten of {runs} take {least} to {most}"
    yield said
    if done.ends_high is None:
        yield f"from {done.begins}, without an end"
    else:
        until = dict.fromkeys((str(done.ends_low), done.ends_high))
        yield f"from {done.begins} to {' or '.join(until)}"
    if simulation.failures.high or simulation.preemptions.high:
        lost = simulation.wasted_seconds
        yield (
            f"{simulation.failures.mean:.1f} failures and {simulation.preemptions.mean:.1f} "
            f"preemptions of machines; {simulation.redone.mean:.1f} units done again, for "
            f"{_hours(lost.mean / 3600)} hours of a worker "
            f"({_hours(lost.low / 3600)} to {_hours(lost.high / 3600)})"
        )


def _costs(done: fungi.Plan) -> Iterator[tuple[str, str, str]]:
    cost = done.cost
    if cost.machines is not None:
        between = f"{cost.machines_low:,.2f} to {cost.machines_high:,.2f}"
        yield "machines", f"{cost.machines:,.2f}", between
    if cost.storage_per_month is not None:
        yield "storage", f"{cost.storage_per_month:,.2f}", "each month"
    if cost.requests is not None:
        yield "requests", f"{cost.requests:,.2f}", f"to write {done.storage.requests:,} objects"


def _hours(hours: float) -> str:
    if math.isinf(hours):
        return "infinite"
    if hours > YEARS:
        return f"{hours:,.0f} ({hours / YEARS:,.0f} years)"
    return f"{hours:,.2f}" if hours < 100 else f"{hours:,.0f}"
