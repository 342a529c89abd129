"""What an extraction did, for the caller and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fungistore.annotating.result import AnnotateResult
from fungistore.store.failed import FailedInput
from fungistore.store.locks import WHOLE, Slice
from fungistore.store.understood import Understood

FIRST_FAILURES = 5  # are named at the end


@dataclass(frozen=True)
class NodeRate:
    """What one machine of a cluster did.

    Attributes:
        node: its name.
        units: units that it committed, in slices that it brought to their ends.
        images_per_second: all its workers together, between their first and their last sample.
    """

    node: str
    units: int
    images_per_second: float


@dataclass(frozen=True)
class ExtractResult:
    """What an extraction did.

    Attributes:
        store: the store's directory.
        feature_set: name of the feature set.
        features: what was extracted.
        samples: rows of the feature set.
        units_done: units committed in all.
        units_total: units that the rows make.
        units_computed: units committed by this run.
        images_computed: samples computed by this run.
        failed: inputs that could not be read.
        failures: the first of them; `failed_inputs` yields all.
        truncated: inputs that end too early, and were read as far as they go.
        cut: samples longer than the model is given, whose ends were left out.
        cause: where no input could be read, and their paths tell why: the likely reason.
        unusable: samples that could be read, and of which a feature has NaN, infinities or nothing
            but zeros; where several features have such rows, the count of the worst.
        images_per_second: of this run, loading and writing included; 0 where nothing was to do.
        fingerprints: of the setup of each feature.
        banks: digest of what each feature was compared with, such as SimCLR's negatives.
        backbone: what decides the encoder's outputs: model, weights, transform.
        understood: what the table says of all samples, and what the source has left out.
        masks: those of the source, which the store has now; None of a source without masks.
        remarks: what the encoder says of its weights and transform, and what its own size costs.
        redone: rows of changed or failed inputs that were made anew by this run.
        worker: the slice of the units that was this run's; `units_done` counts those of all.
        worker_units: how many units that are.
        workers: the results of an engine's workers, where several shared the units.
        node: the machine that did it, where there were several.
        began: when its first sample was taken, by that machine's clock.
        seconds: from then on until the last unit was written.
        nodes: what each machine did, where there were several.
    """

    store: str
    feature_set: str
    features: tuple[str, ...]
    samples: int
    units_done: int
    units_total: int
    units_computed: int
    images_computed: int
    failed: int
    unusable: int
    images_per_second: float
    fingerprints: Mapping[str, str]
    failures: tuple[FailedInput, ...] = ()
    truncated: int = 0
    cut: int = 0
    cause: str | None = None
    banks: Mapping[str, str] = field(default_factory=dict)
    backbone: Mapping[str, Any] = field(default_factory=dict)
    understood: Understood | None = None
    masks: AnnotateResult | None = None
    remarks: tuple[str, ...] = ()
    redone: int = 0
    worker: Slice = WHOLE
    worker_units: int = 0
    workers: tuple[ExtractResult, ...] = ()
    node: str = ""
    began: float = 0.0
    seconds: float = 0.0
    nodes: tuple[NodeRate, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        document = asdict(self)
        del document["workers"], document["began"], document["seconds"]
        if not self.node:
            del document["node"]
        if not self.nodes:
            del document["nodes"]
        computed = document.pop("units_computed")
        done, total = document.pop("units_done"), document.pop("units_total")
        own = {"id": self.worker.index, "of": self.worker.count, "units": self.worker_units}
        del document["worker"], document["worker_units"]
        document["units"] = {"done": done, "total": total, "computed": computed}
        if self.workers:
            return document | {"workers": [worker.to_json() for worker in self.workers]}
        return document | {"worker": own}


def rates_by_node(results: Iterable[ExtractResult]) -> tuple[NodeRate, ...]:
    """Return what each machine did, by its own clock, in the order of their names."""
    by_node: dict[str, list[ExtractResult]] = {}
    for result in results:
        by_node.setdefault(result.node, []).append(result)
    return tuple(_rate(node, own) for node, own in sorted(by_node.items()))


def _rate(node: str, results: list[ExtractResult]) -> NodeRate:
    busy = [result for result in results if result.images_computed]
    units = sum(result.units_computed for result in busy)
    if not busy:
        return NodeRate(node, units, 0.0)
    first, last = min(one.began for one in busy), max(one.began + one.seconds for one in busy)
    images = sum(result.images_computed for result in busy)
    return NodeRate(node, units, images / max(last - first, 1e-9))
