"""What a plan says, for the caller and as JSON; and of each number where it comes from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from fungistore.planning.cluster import Cluster
from fungistore.planning.simulate import Simulation
from fungistore.planning.storage import Storage

Origin = Literal["measured", "given", "assumed", "computed"]


@dataclass(frozen=True)
class Known:
    """Something that a plan is made from, or says: a value, and where it comes from.

    Attributes:
        name: what it is.
        value: in words, with its unit.
        origin: "measured": by our benchmarks, or by the run that wrote a store; "given": by a flag;
            "assumed": a default that nobody has measured; "computed": from the others.
        source: the file, flag or formula.
    """

    name: str
    value: str
    origin: Origin
    source: str


@dataclass(frozen=True)
class Rate:
    """Images per second of one worker.

    Attributes:
        low, high: between which it lies; equal where it was measured, or given as one number.
        origin: where it comes from.
        source: in words.
    """

    low: float
    high: float
    origin: Origin
    source: str


@dataclass(frozen=True)
class MemoryUse:
    """Memory of one machine: of how many bytes, for what, and of the GPUs or the machine."""

    what: str
    bytes: int
    where: Literal["workers", "machine", "a later stage"]


@dataclass(frozen=True)
class PlannedIndex:
    """The index that `fungi index` would choose, and its size.

    Attributes:
        of: the vectors.
        dim: their width.
        factory: of faiss.
        bytes: in memory and on the disk.
        reason: of the choice.
    """

    of: str
    dim: int
    factory: str
    bytes: int
    reason: str


@dataclass(frozen=True)
class LaterStage:
    """A stage on two cores, from our measurement of a million rows."""

    what: str
    hours: float
    source: str


@dataclass(frozen=True)
class Cost:
    """What it costs, in words' currency; None: no price was given.

    Attributes:
        machines: mean of the simulated runs.
        machines_low, machines_high: between which nine of ten of them lie.
        storage_per_month: of the store.
        requests: that write it.
        currency: of all.
    """

    machines: float | None
    machines_low: float | None
    machines_high: float | None
    storage_per_month: float | None
    requests: float | None
    currency: str


@dataclass(frozen=True)
class Limit:
    """Where it breaks, or gets slow or dear: what, how far, and what to do."""

    what: str
    found: str
    hint: str


@dataclass(frozen=True)
class Plan:
    """A plan of a large extraction; nothing was computed, and nothing written.

    Attributes:
        images: how many.
        model: that makes the features.
        features: that are extracted.
        units, unit_rows: what is committed at once.
        workers: of all machines.
        known: what the plan is made from, and where each number comes from.
        rate: of one worker, before reading holds it up.
        worker_rate: the same after.
        unit_seconds: of one unit, between the highest and the lowest rate.
        cluster: the facts that were simulated.
        simulation: what came of them.
        begins, ends_low, ends_high: times, ISO 8601; None where there is no end.
        storage: what lies on the disk, or in the bucket.
        memory: of one machine.
        indexes: of all vectors, and of a PCA.
        stages: hours of later stages, where they were measured.
        cost: with the prices that were given.
        limits: where it breaks.
    """

    images: int
    model: str
    features: tuple[str, ...]
    units: int
    unit_rows: int
    workers: int
    known: tuple[Known, ...]
    rate: Rate
    worker_rate: tuple[float, float]
    unit_seconds: tuple[float, float]
    cluster: Cluster
    simulation: Simulation
    begins: str
    ends_low: str | None
    ends_high: str | None
    storage: Storage
    memory: tuple[MemoryUse, ...]
    indexes: tuple[PlannedIndex, ...]
    stages: tuple[LaterStage, ...]
    cost: Cost
    limits: tuple[Limit, ...]

    @property
    def hours(self) -> tuple[float, float, float]:
        """Mean of the simulated runs, and between which nine of ten of them lie."""
        seconds = self.simulation.seconds
        return seconds.mean / 3600, seconds.low / 3600, seconds.high / 3600

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; machines that are alike are told once, with a count."""
        document = asdict(self)
        first, *others = self.cluster.nodes
        if all(node == first for node in others):
            document["cluster"]["nodes"] = [asdict(first) | {"count": len(self.cluster.nodes)}]
        mean, low, high = self.hours
        return document | {"hours": {"mean": mean, "low": low, "high": high}}
