"""How long a cluster takes: many simulated runs, their mean and where nine of ten of them lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import inf
from random import Random
from statistics import fmean
from typing import Any

from fungistore.planning.cluster import Cluster
from fungistore.planning.events import Run, Simulator
from fungistore.settings import require

LOW, HIGH = 0.05, 0.95  # of the runs: an interval that nine of ten lie in
MOST_RUNS, LEAST_RUNS = 200, 20
EVENTS = 60_000  # of all runs together, about: a third of a second


@dataclass(frozen=True)
class Spread:
    """A number that differs from run to run: its mean, and between which nine of ten lie."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Simulation:
    """What simulated runs of a cluster have come to.

    Attributes:
        runs: how many were simulated; one where nothing is left to chance.
        unfinished: those that had no end; their seconds are infinite.
        seconds: from the start to the last unit.
        failures: of nodes.
        preemptions: of nodes.
        redone: units that were begun by a node that died, and done again.
        wasted_seconds: that workers had spent on them.
        by_node: mean of the units that each node has committed.
    """

    runs: int
    unfinished: int
    seconds: Spread
    failures: Spread
    preemptions: Spread
    redone: Spread
    wasted_seconds: Spread
    by_node: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)


def simulate(cluster: Cluster, *, runs: int | None = None, seed: int = 42) -> Simulation:
    """Simulate runs of a cluster; equal arguments give equal results.

    Args:
        cluster: units, nodes, and what happens to them: all that is known of a run, or expected.
        runs: how many; default: as many as take about a third of a second, 20 to 200. Where nothing
            is left to chance it is one.
        seed: of what is left to chance.

    Raises:
        UsageError: `runs` is no positive number.
    """
    require(runs is None or runs > 0, "runs", "1 or more", runs)
    first = one_run(cluster, seed, 0)
    if cluster.is_certain:
        return _together([first])
    wanted = runs or max(LEAST_RUNS, min(MOST_RUNS, EVENTS // max(1, first.events)))
    if runs is None and first.seconds == inf:
        wanted = 1  # the others would not end either
    return _together([first, *(one_run(cluster, seed, run) for run in range(1, wanted))])


def one_run(cluster: Cluster, seed: int, number: int, *, keeps_commits: bool = False) -> Run:
    """Return one of the runs that `simulate` makes, by its number."""
    random = Random(f"{seed}/{number}")
    return Simulator(cluster, random, keeps_commits=keeps_commits).run()


def _together(runs: Sequence[Run]) -> Simulation:
    def spread(of: Callable[[Run], float]) -> Spread:
        values = sorted(map(of, runs))
        return Spread(fmean(values), quantile(values, LOW), quantile(values, HIGH))

    return Simulation(
        runs=len(runs),
        unfinished=sum(run.seconds == inf for run in runs),
        seconds=spread(lambda run: run.seconds),
        failures=spread(lambda run: run.failures),
        preemptions=spread(lambda run: run.preemptions),
        redone=spread(lambda run: run.redone),
        wasted_seconds=spread(lambda run: run.wasted_seconds),
        by_node=tuple(fmean(counts) for counts in zip(*(run.by_node for run in runs), strict=True)),
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which a share of some ordered ones lies, between two neighbours."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    if ordered[above] == ordered[below]:  # infinities have no difference
        return ordered[below]
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
