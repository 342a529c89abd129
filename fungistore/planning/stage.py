"""`fungi plan`: what a large extraction will take, on paper."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from math import inf
from pathlib import Path

from fungistore.errors import UsageError
from fungistore.extraction.measure import Rate as MeasuredRate
from fungistore.extraction.measure import choose_unit_rows
from fungistore.extraction.resolve import opened_source
from fungistore.indexing.choose import available_memory
from fungistore.planning.cluster import Cluster, Node, alike
from fungistore.planning.content import Content, content_of_model, content_of_store
from fungistore.planning.limits import GB, Planned, later_stages, limits
from fungistore.planning.memory import memory_uses, planned_indexes
from fungistore.planning.options import PlanOptions
from fungistore.planning.rates import reading, worker_rate
from fungistore.planning.result import Cost, Known, Origin, Plan, Rate
from fungistore.planning.simulate import Simulation, simulate
from fungistore.planning.storage import Storage, storage
from fungistore.quantities import size
from fungistore.sources.sample import Source
from fungistore.store.store import Store

TB = 1e12
SLOWEST, FASTEST = 1e-6, 1e9  # images per second of a worker: beyond them numbers run out
ON_CPUS = "xeon"  # what hardware without a GPU is called here
NO_OPTIONS = PlanOptions()


def plan(
    source: str | Path | Sequence[str | Path] | Source | Store | None = None,
    options: PlanOptions = NO_OPTIONS,
) -> Plan:
    """Say what an extraction will take: hours, bytes, files, memory, cost, and where it breaks.

    Nothing is computed but a simulation, nothing downloaded, and nothing written. Every number is
    measured, given, assumed or computed from those, and says which.

    Args:
        source: a source of images, whose number is counted; or a store, which tells what is stored
            of each image and, by the times of its records, how fast; None: options say all.
        options: the extraction, the machines, what goes wrong with them, prices.

    Raises:
        UsageError: something is missing that nothing tells, such as a rate, or does not fit.
        StoreError: the store is damaged.
    """
    store = _store(source)
    content = content_of_model(options) if store is None else content_of_store(store, options)
    images, counted_by = _images(source, store, options, content)
    rate = worker_rate(options, content, store)
    reads, how_read = reading(options)
    low, high = (_held_up(one, reads, options) for one in (rate.low, rate.high))
    if not SLOWEST <= low <= high <= FASTEST:
        raise UsageError(
            "no worker is as slow or as fast as that",
            where="--rate, --scaling or --read-rate",
            expected=f"from {SLOWEST:g} to {FASTEST:g} images per second of a worker",
            found=f"{low:g} to {high:g}",
        )
    measured = MeasuredRate(low, high)
    unit_rows = content.unit_rows or choose_unit_rows(measured, list(content.arrays))
    if store is None:  # whose units have all chunks of a file already
        unit_rows *= options.shard_units
    units = -(-images // unit_rows)
    rows = images / units  # of a unit on average: the last one may have fewer
    cluster = _cluster(options, units, rows / high, low / high)
    simulation = simulate(cluster, seed=options.seed)
    stored = storage(content, images, unit_rows, options.shard_units)
    memory = available_memory() if options.node_memory is None else int(options.node_memory * GB)
    is_cpu = (options.gpu or "").lower().startswith(ON_CPUS)
    planned = Planned(
        options=options,
        content=content,
        images=images,
        units=units,
        unit_rows=unit_rows,
        unit_seconds=rows / low,
        rate=rate,
        reads=reads,
        simulation=simulation,
        storage=stored,
        memory=memory_uses(
            content,
            options.gpus_per_node,
            unit_rows,
            options.shard_units,
            "cpu" if is_cpu else "cuda",
        ),
        indexes=planned_indexes(content, images, memory),
        stages=later_stages(content, images),
    )
    begins = datetime.now() if options.start is None else datetime.fromisoformat(options.start)
    known = [
        Known("images", f"{images:,}", *counted_by),
        Known("features", ", ".join(content.features), *_origin(content, store)),
        Known("rate", f"{_between(rate)} images/s a worker", rate.origin, rate.source),
        how_read,
        Known("unit", f"{unit_rows:,} rows", *_unit_origin(options, store)),
        *_troubles(options),
        Known(
            "memory",
            size(memory),
            *_flag_or(options.node_memory, "--node-memory", "measured", "free on this machine"),
        ),
    ]
    return Plan(
        images=images,
        model=content.model,
        features=content.features,
        units=units,
        unit_rows=unit_rows,
        workers=planned.workers,
        known=tuple(known),
        rate=rate,
        worker_rate=(low, high),
        unit_seconds=(rows / high, rows / low),
        cluster=cluster,
        simulation=simulation,
        begins=begins.isoformat(" ", "minutes"),
        ends_low=_end(begins, simulation.seconds.low),
        ends_high=_end(begins, simulation.seconds.high),
        storage=stored,
        memory=tuple(planned.memory),
        indexes=tuple(planned.indexes),
        stages=tuple(planned.stages),
        cost=_cost(options, simulation, stored),
        limits=tuple(limits(planned)),
    )


def _store(source: object) -> Store | None:
    if isinstance(source, Store):
        return source
    is_place = isinstance(source, str | Path) and str(source) != "-"
    return Store.open(str(source)) if is_place and Store.exists(str(source)) else None


def _images(
    source: str | Path | Sequence[str | Path] | Source | Store | None,
    store: Store | None,
    options: PlanOptions,
    content: Content,
) -> tuple[int, tuple[Origin, str]]:
    if options.images is not None:
        return options.images, ("given", "--images")
    if store is not None:
        return max(1, len(store.samples)), ("measured", store.where)
    if source is None or isinstance(source, Store):
        raise UsageError(
            "nothing says how many images there are",
            expected="--images N, or a SOURCE to count them",
        )
    opened = opened_source(source, content.model)
    count = sum(1 for _ in opened)
    if not count:
        raise UsageError("no images found", where=opened.root, expected="at least one image")
    return count, ("measured", f"counted in {opened.root}")


def _held_up(rate: float, reads: float | None, options: PlanOptions) -> float:
    """Return a worker's rate where a machine's workers share what it reads."""
    return rate if reads is None else min(rate, reads / options.gpus_per_node)


def _cluster(options: PlanOptions, units: int, unit_seconds: float, pace: float) -> Cluster:
    node = Node(unit_seconds, options.gpus_per_node, options.load_seconds)
    return Cluster(
        units=units,
        nodes=alike(options.nodes, node),
        placement=options.placement,
        mtbf_seconds=None if options.mtbf is None else options.mtbf * 3600,
        preempted_seconds=(
            None if options.preempted_every is None else options.preempted_every * 3600
        ),
        restart_seconds=options.restart_minutes * 60,
        lease_seconds=options.lease_seconds,
        unit_spread=options.unit_spread,
        node_spread=options.node_spread,
        pace=(pace, 1.0),
    )


def _origin(content: Content, store: Store | None) -> tuple[Origin, str]:
    return ("computed" if store is None else "measured"), content.source


def _unit_origin(options: PlanOptions, store: Store | None) -> tuple[Origin, str]:
    if options.unit_rows is not None:
        return "given", "--unit-rows"
    if store is not None:
        return "measured", store.where
    return "computed", "as extract chooses it: about a minute of work, chunks of 100 MB at most"


def _troubles(options: PlanOptions) -> list[Known]:
    """Return what goes wrong, and the times that nobody has measured where it says nothing."""
    found = [
        Known(
            "loading",
            f"{options.load_seconds:g} s before a worker's first unit",
            *_default_or(options, "load_seconds"),
        )
    ]
    if options.mtbf is not None:
        found.append(
            Known("failures", f"one in {options.mtbf:g} hours a machine", "given", "--mtbf")
        )
        lease = f"{options.lease_seconds:g} s until its unit is free"
        found.append(Known("lease", lease, *_default_or(options, "lease_seconds")))
    if options.preempted_every is not None:
        said = f"one in {options.preempted_every:g} hours a machine"
        found.append(Known("preemptions", said, "given", "--preempted-every"))
    if options.mtbf is not None or options.preempted_every is not None:
        back = f"{options.restart_minutes:g} min until a machine is there again"
        found.append(Known("restart", back, *_default_or(options, "restart_minutes")))
    return found


def _default_or(options: PlanOptions, name: str) -> tuple[Origin, str]:
    """Return where a setting with a default that nobody has measured comes from."""
    flag = f"--{name.replace('_', '-')}"
    is_default = getattr(options, name) == getattr(NO_OPTIONS, name)
    return ("assumed", f"the default of {flag}") if is_default else ("given", flag)


def _flag_or(given: object, flag: str, origin: Origin, source: str) -> tuple[Origin, str]:
    return (origin, source) if given is None else ("given", flag)


def _between(rate: Rate) -> str:
    return f"{rate.low:.4g}" if rate.low == rate.high else f"{rate.low:.4g} to {rate.high:.4g}"


def _end(begins: datetime, seconds: float) -> str | None:
    try:
        return (begins + timedelta(seconds=seconds)).isoformat(" ", "minutes")
    except OverflowError:  # infinite, or beyond the year 9999
        return None


def _cost(options: PlanOptions, simulation: Simulation, stored: Storage) -> Cost:
    hourly = options.price_per_hour
    seconds = simulation.seconds

    def machines(took: float) -> float | None:
        is_known = hourly is not None and took < inf
        return options.nodes * took / 3600 * hourly if is_known and hourly is not None else None

    monthly, request = options.storage_price, options.request_price
    return Cost(
        machines=machines(seconds.mean),
        machines_low=machines(seconds.low),
        machines_high=machines(seconds.high),
        storage_per_month=None if monthly is None else stored.bytes / TB * monthly,
        requests=None if request is None else stored.requests / 1000 * request,
        currency=options.currency,
    )
