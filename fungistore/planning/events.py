"""One simulated run: a heap of events, in which workers take units, nodes fail and come back.

Units are granted in groups, as large as what a worker does in a quarter of the time that is left,
so a hundred million images are some thousand events. No result depends on it: a group's time is
the sum of its units' (gamma times add up to a gamma time), a death is put between the very units
that it falls between (their partial sums are beta distributed), what a dead worker had not begun
is free at once, and groups shrink to one unit long before the last is taken, so nobody waits for
a group at the end. A test compares it with units that are granted one by one.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import exp, inf, log
from random import Random

from fungistore.planning.cluster import Cluster, Node, Outage, spans

GROUPS = 4  # that a worker takes until all is done, if nothing happens
MOST_EVENTS = 300_000  # of one run; then it has no end, as where nodes die sooner than a unit ends
ROUNDING = 1e-9  # of a unit: a node that dies when a unit is done has done it


@dataclass(frozen=True)
class Commit:
    """Units that a node has committed, one after the other.

    Attributes:
        at: when the last of them was, or when the node died that was at a group of them.
        node: its number.
        units: their numbers.
    """

    at: float
    node: int
    units: range


@dataclass
class Run:
    """What happened in one run; times are seconds since it began.

    Attributes:
        seconds: until the last unit was committed; infinite where that never is.
        by_node: units that each node has committed.
        failures: of nodes, before the end; preemptions are counted beside them.
        preemptions: announced ones.
        redone: units that had been begun by a node that died.
        wasted_seconds: that workers had spent on them.
        events: of the simulation.
        commits: what was committed; only where that is asked for.
    """

    seconds: float
    by_node: list[int]
    failures: int = 0
    preemptions: int = 0
    redone: int = 0
    wasted_seconds: float = 0.0
    events: int = 0
    commits: list[Commit] = field(default_factory=list)


@dataclass
class _Grant:
    """Units that a worker is at: since when, and when it will have done them all."""

    units: range
    since: float
    until: float


@dataclass
class _Worker:
    node: _Machine
    pool: deque[range]
    grant: _Grant | None = None
    is_waiting: bool = False


@dataclass
class _Machine:
    """A node: `life` counts its starts, so that what is meant for an earlier one passes by."""

    number: int
    facts: Node
    unit_seconds: float
    workers: list[_Worker] = field(default_factory=list)
    life: int = 0
    is_up: bool = False


class Simulator:
    """One run of a cluster.

    Args:
        cluster: the facts.
        random: what is left to chance is drawn from it.
        groups: a worker's grants until all is done; infinite: one unit at a time.
        keeps_commits: whether the run tells every commit.
    """

    def __init__(
        self,
        cluster: Cluster,
        random: Random,
        *,
        groups: float = GROUPS,
        keeps_commits: bool = False,
    ) -> None:
        self._cluster, self._random, self._groups = cluster, random, groups
        self._keeps_commits = keeps_commits
        self._now, self._left = 0.0, cluster.units
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._run = Run(inf, [0] * len(cluster.nodes))
        pace = exp(random.uniform(*map(log, cluster.pace)))
        self._machines = [self._machine(n, node, pace) for n, node in enumerate(cluster.nodes)]
        workers = [worker for machine in self._machines for worker in machine.workers]
        self._waiting: list[_Worker] = []
        self._share_out(workers)
        self._speed = sum(1 / worker.node.unit_seconds for worker in workers)

    def run(self) -> Run:
        """Let everything happen, to the last unit."""
        for machine in self._machines:
            self._at(machine.facts.joins, self._start, machine)
            for outage in machine.facts.outages:
                self._at(outage.at, self._outage, machine, outage)
        while self._heap and self._left and self._run.events < MOST_EVENTS:
            self._now, _, happen = heapq.heappop(self._heap)
            self._run.events += 1
            happen()
        if not self._left:
            self._run.seconds = self._now
        return self._run

    def _machine(self, number: int, node: Node, pace: float) -> _Machine:
        spread = self._cluster.node_spread
        speed = pace * (exp(self._random.gauss(0, spread)) if spread else 1.0)
        return _Machine(number, node, node.unit_seconds / speed)

    def _share_out(self, workers: list[_Worker]) -> None:
        for machine in self._machines:
            shared: deque[range] = deque()
            machine.workers = [_Worker(machine, shared) for _ in range(machine.facts.workers)]
        every = [worker for machine in self._machines for worker in machine.workers]
        units, count = self._cluster.units, len(every)
        if self._cluster.placement == "dynamic":
            pool = deque([range(units)])
            for worker in every:
                worker.pool = pool
        else:  # every N-th unit, under other numbers: only how many they are counts
            for worker, own in zip(
                every, spans([len(range(n, units, count)) for n in range(count)]), strict=True
            ):
                worker.pool = deque([own] if own else [])
        workers[:] = every

    def _at(self, time: float, happen: Callable[..., None], *what: object) -> None:
        self._order += 1  # of two events at once the first that was known comes first
        heapq.heappush(self._heap, (time, self._order, lambda: happen(*what)))

    def _start(self, machine: _Machine) -> None:
        if machine.is_up:
            return
        machine.is_up, machine.life = True, machine.life + 1
        ready = self._now + machine.facts.load_seconds
        for worker in machine.workers:
            self._at(ready, self._ready, worker, machine.life)
        for mean, is_told in (
            (self._cluster.mtbf_seconds, False),
            (self._cluster.preempted_seconds, True),
        ):
            if mean is not None:
                death = ready + self._random.expovariate(1 / mean)
                back = death + self._cluster.restart_seconds
                self._at(death, self._die, machine, Outage(death, back, is_told), machine.life)

    def _ready(self, worker: _Worker, life: int) -> None:
        if worker.node.life == life and worker.node.is_up:
            self._take(worker)

    def _take(self, worker: _Worker) -> None:
        if not worker.pool:
            worker.is_waiting = True
            self._waiting.append(worker)
            return
        units = worker.pool.popleft()
        count = self._group(worker, units)
        if count < len(units):
            worker.pool.appendleft(units[count:])
        until = self._now + self._duration(worker.node.unit_seconds, count)
        worker.grant = grant = _Grant(units[:count], self._now, until)
        self._at(until, self._done, worker, grant)

    def _group(self, worker: _Worker, units: range) -> int:
        if self._cluster.placement == "slices" and self._groups < inf:
            return len(units)  # nobody else may have them
        left = sum(map(len, worker.pool)) + len(units)
        seconds = left / self._speed / self._groups
        return max(1, min(len(units), int(seconds / worker.node.unit_seconds)))

    def _duration(self, unit_seconds: float, count: int) -> float:
        spread = self._cluster.unit_spread
        if not spread:
            return count * unit_seconds
        shape = spread**-2
        return self._random.gammavariate(shape * count, unit_seconds / shape)

    def _done(self, worker: _Worker, grant: _Grant) -> None:
        if worker.grant is grant:
            worker.grant = None
            self._commit(worker, grant.units)
            self._take(worker)

    def _commit(self, worker: _Worker, units: range) -> None:
        self._left -= len(units)
        self._run.by_node[worker.node.number] += len(units)
        if self._keeps_commits and units:
            self._run.commits.append(Commit(self._now, worker.node.number, units))

    def _outage(self, machine: _Machine, outage: Outage) -> None:
        self._die(machine, outage, machine.life)

    def _die(self, machine: _Machine, outage: Outage, life: int) -> None:
        if machine.life != life or not machine.is_up:
            return
        machine.is_up = False
        if outage.is_told:
            self._run.preemptions += 1
        else:
            self._run.failures += 1
        for worker in machine.workers:
            self._drop(worker, outage.is_told)
        if outage.back is not None:
            self._at(outage.back, self._start, machine)

    def _drop(self, worker: _Worker, is_told: bool) -> None:
        if worker.is_waiting:
            worker.is_waiting = False
            self._waiting.remove(worker)
        grant, worker.grant = worker.grant, None
        if grant is None:
            return
        done, spent = self._done_of(grant)
        self._commit(worker, grant.units[:done])
        begun, rest = grant.units[done : done + 1], grant.units[done + 1 :]
        if rest:
            self._free(worker.pool, rest)
        if begun:
            self._run.redone += 1
            self._run.wasted_seconds += spent
            until = self._now + (0.0 if is_told else self._cluster.lease_seconds)
            self._at(until, self._free, worker.pool, begun)

    def _done_of(self, grant: _Grant) -> tuple[int, float]:
        """Return how many of a group's units are done by now, and the seconds spent on the next."""
        whole, count = grant.until - grant.since, len(grant.units)
        share = (self._now - grant.since) / whole
        spread = self._cluster.unit_spread
        if not spread:
            done = min(count, int(share * count + ROUNDING))
            return done, max(0.0, share - done / count) * whole
        shape, done, low, high = spread**-2, 0, 0.0, 1.0
        while count > 1:  # where the middle unit ends, among what is left of the group
            half = count // 2
            middle = self._random.betavariate(shape * half, shape * (count - half))
            middle = low + (high - low) * middle
            if middle <= share:
                done, low, count = done + half, middle, count - half
            else:
                high, count = middle, half
        return done, (share - low) * whole

    def _free(self, pool: deque[range], units: range) -> None:
        pool.append(units)
        for worker in [one for one in self._waiting if one.pool is pool]:
            if not pool:
                return
            worker.is_waiting = False
            self._waiting.remove(worker)
            self._take(worker)
