"""The facts of a run on several nodes, as a simulation takes them and as a real run leaves them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, MinLen

from fungistore.settings import Count, build, require

Placement = Literal["dynamic", "slices"]
Seconds = Annotated[float, Ge(0)]
PositiveSeconds = Annotated[float, Gt(0)]


@dataclass(frozen=True)
class Outage:
    """A time that a node was gone for.

    Attributes:
        at: seconds since the run began.
        back: when the node was there again, with its models still to be loaded; None: never.
        is_told: whether it was announced, as a preemption is: what it had begun is free at once.
    """

    at: Seconds
    back: Seconds | None = None
    is_told: bool = False


@dataclass(frozen=True)
class Node:
    """One machine.

    Attributes:
        unit_seconds: that one of its workers takes for a unit.
        workers: processes that share its fate, such as one a GPU.
        load_seconds: from its start, or its return, to the first unit: imports, model, compiling.
        joins: when it starts, in seconds since the run began.
        outages: known ones, in their order.
    """

    unit_seconds: PositiveSeconds
    workers: Count = 1
    load_seconds: Seconds = 0.0
    joins: Seconds = 0.0
    outages: tuple[Outage, ...] = ()


@dataclass(frozen=True)
class Cluster:
    """Units of work, and the nodes that do them.

    Attributes:
        units: how many there are.
        nodes: who does them.
        placement: "dynamic": a worker takes the next unit when it has done one; "slices": each
            worker has every N-th unit, and nobody else does them.
        mtbf_seconds: mean time between a node's failures, which are exponential; None: it has none.
        preempted_seconds: the same of announced ones.
        restart_seconds: from a failure or a preemption to the node's return.
        lease_seconds: for which nobody else takes what a failed node had begun.
        unit_spread: deviation of a unit's seconds over their mean; gamma distributed.
        node_spread: the same of the nodes' speeds; their logarithm is normal.
        pace: lowest and highest factor on all nodes' speeds: what is not known of them. One is
            drawn for each simulated run.
    """

    units: Count
    nodes: Annotated[tuple[Node, ...], MinLen(1)]
    placement: Placement = "dynamic"
    mtbf_seconds: PositiveSeconds | None = None
    preempted_seconds: PositiveSeconds | None = None
    restart_seconds: Seconds = 0.0
    lease_seconds: Seconds = 0.0
    unit_spread: Seconds = 0.0
    node_spread: Seconds = 0.0
    pace: tuple[PositiveSeconds, PositiveSeconds] = (1.0, 1.0)

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            UsageError: naming the field.
        """
        for number, node in enumerate(self.nodes):
            times = [0.0 if node.joins is None else node.joins]
            for outage in node.outages:
                times += [outage.at, outage.at if outage.back is None else outage.back]
            where = f"nodes[{number}].outages"
            require(times == sorted(times), where, "times in their order, after `joins`", times)
        low, high = self.pace
        require(low <= high, "pace", "the lower factor first", self.pace)

    @property
    def is_certain(self) -> bool:
        """Whether nothing is left to chance."""
        is_drawn = self.unit_spread or self.node_spread or self.pace[0] != self.pace[1]
        return not is_drawn and self.mtbf_seconds is None and self.preempted_seconds is None

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Cluster:
        """Return the cluster of a JSON object with the fields' names.

        Raises:
            UsageError: a field is unknown, missing, or cannot be used.
        """
        return build(cls, document, "cluster")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary, as `from_json` takes it."""
        return asdict(self)


def alike(count: int, node: Node) -> tuple[Node, ...]:
    """Return so many nodes of one kind."""
    return (node,) * count


def spans(parts: Sequence[int]) -> list[range]:
    """Return stretches of numbers, one behind the other, of so many each."""
    starts = [sum(parts[:place]) for place in range(len(parts))]
    return [range(start, start + count) for start, count in zip(starts, parts, strict=True)]
