"""The simulation of units, workers and failures, against closed forms, bounds and brute force."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace
from itertools import pairwise
from math import ceil, expm1, inf, isclose
from random import Random
from statistics import fmean, stdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fungistore as fungi
from fungistore.errors import UsageError
from fungistore.planning.cluster import Cluster, Node, Outage, alike
from fungistore.planning.events import Run, Simulator
from fungistore.planning.simulate import one_run, quantile, simulate

counts = st.integers(1, 60)
seconds = st.floats(0.5, 20)


def alone(cluster: Cluster, groups: float = inf, seed: int = 0) -> Run:
    """One run, unit by unit."""
    return Simulator(cluster, Random(seed), groups=groups, keeps_commits=True).run()


@given(
    units=counts,
    nodes=st.integers(1, 7),
    workers=st.integers(1, 3),
    unit=seconds,
    load=st.floats(0, 50),
    placement=st.sampled_from(["dynamic", "slices"]),
)
def test_equal_workers_take_as_many_rounds_as_units_need(
    units: int, nodes: int, workers: int, unit: float, load: float, placement: str
) -> None:
    """Nothing happens to them: load + ceil(units / workers) unit times, however they are placed."""
    cluster = Cluster(units, alike(nodes, Node(unit, workers, load)), placement)  # type: ignore[arg-type]
    expected = load + ceil(units / (nodes * workers)) * unit
    found = simulate(cluster)
    assert found.runs == 1
    assert found.seconds.low == found.seconds.mean == found.seconds.high
    assert isclose(found.seconds.mean, expected)


unequal = st.lists(st.tuples(seconds, st.integers(1, 3)), min_size=1, max_size=6)


@given(units=st.integers(1, 2000), speeds=unequal)
def test_unequal_workers_stay_within_the_bounds_of_list_scheduling(
    units: int, speeds: list[tuple[float, int]]
) -> None:
    """No less than all at work to the end, and no more than one unit of the slowest beyond it."""
    nodes = tuple(Node(unit, workers) for unit, workers in speeds)
    found = simulate(Cluster(units, nodes)).seconds.mean
    ideal = units / sum(workers / unit for unit, workers in speeds)
    assert ideal <= found * (1 + 1e-9)
    assert found <= (ideal + max(unit for unit, _ in speeds)) * (1 + 1e-9)


@given(units=counts, speeds=unequal)
def test_slices_wait_for_their_slowest(units: int, speeds: list[tuple[float, int]]) -> None:
    """Each worker has every N-th unit, and nobody helps."""
    nodes = tuple(Node(unit, workers) for unit, workers in speeds)
    every = [unit for unit, workers in speeds for _ in range(workers)]
    own = [unit * len(range(n, units, len(every))) for n, unit in enumerate(every)]
    assert isclose(simulate(Cluster(units, nodes, "slices")).seconds.mean, max(own))


def brute_force(
    units: int, nodes: list[tuple[float, list[tuple[float, float]]]], load: float, lease: float
) -> float:
    """The same by a plain loop over moments: no heap, no groups, one worker a node.

    A node is (seconds of a unit, outages); the node that has waited longest takes first.
    """
    free: list[float] = [0.0] * units  # when each unit that nobody has can be taken
    busy: dict[int, float] = {}  # node: when its unit is done
    ready = {n: load for n in range(len(nodes))}
    moments = [(at, n, back) for n, (_, outages) in enumerate(nodes) for at, back in outages]
    done, now = 0, 0.0
    while done < units:
        steps = [*busy.values(), *(at for at, _, _ in moments), *free, *ready.values()]
        now = min(step for step in steps if step >= now)
        for n in [n for n, end in busy.items() if end <= now]:
            del busy[n]
            done += 1
            ready[n] = now
        for outage in [one for one in moments if one[0] <= now]:
            moments.remove(outage)
            _, n, back = outage
            if busy.pop(n, None) is not None:
                free.append(now + lease)
            ready[n] = back + load
        for n in sorted(ready, key=lambda n: (ready[n], n)):
            waiting = [one for one in free if one <= now]
            if ready[n] <= now and waiting:
                free.remove(waiting[0])
                del ready[n]
                busy[n] = now + nodes[n][0]
        if ready and free and not busy:
            later = [one for one in (*ready.values(), *free) if one > now]
            now = min([*later, *(at for at, _, _ in moments if at > now)])
        elif busy:
            past = [one for one in (*busy.values(), *free, *ready.values()) if one > now]
            now = min([*past, *(at for at, _, _ in moments if at > now)])
    return now


@st.composite
def troubled(draw: st.DrawFn) -> tuple[int, list[tuple[float, list[tuple[float, float]]]]]:
    """Units, and nodes with outages, at times that no two events share."""
    random = Random(draw(st.integers(0, 2**32)))
    nodes = []
    for _ in range(draw(st.integers(1, 4))):
        times = sorted(random.uniform(0, 60) for _ in range(2 * draw(st.integers(0, 3))))
        nodes.append((random.uniform(1, 9), list(zip(times[::2], times[1::2], strict=True))))
    return draw(st.integers(1, 25)), nodes


@settings(max_examples=300)
@given(case=troubled(), load=st.sampled_from([0.0, 1.37]), lease=st.sampled_from([0.0, 4.21]))
def test_known_outages_as_a_plain_loop_has_them(
    case: tuple[int, list[tuple[float, list[tuple[float, float]]]]], load: float, lease: float
) -> None:
    """Tiny cases, to the last digit, unit by unit."""
    units, nodes = case
    cluster = Cluster(
        units,
        tuple(Node(unit, 1, load, 0.0, tuple(Outage(*o) for o in outs)) for unit, outs in nodes),
        lease_seconds=lease,
    )
    assert isclose(alone(cluster).seconds, brute_force(units, nodes, load, lease))


@given(
    units=st.integers(1, 5000),
    nodes=st.lists(
        st.builds(Node, seconds, st.integers(1, 3), st.floats(0, 9)), min_size=1, max_size=4
    ),
    placement=st.sampled_from(["dynamic", "slices"]),
    life=st.floats(40, 4000),
    spread=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 99),
)
def test_each_unit_is_committed_once(
    units: int, nodes: list[Node], placement: str, life: float, spread: float, seed: int
) -> None:
    """Whatever fails: none is lost, none done twice, and none after the end."""
    cluster = Cluster(
        units,
        tuple(nodes),
        placement,
        mtbf_seconds=life,
        preempted_seconds=life,  # type: ignore[arg-type]
        restart_seconds=30,
        lease_seconds=20,
        unit_spread=spread,
    )
    found = one_run(cluster, seed, 0, keeps_commits=True)
    committed = sorted((c.units for c in found.commits), key=lambda part: part.start)
    assert committed[0].start == 0
    assert committed[-1].stop == units
    assert all(before.stop == after.start for before, after in pairwise(committed))
    assert sum(found.by_node) == units
    assert [c.at for c in found.commits] == sorted(c.at for c in found.commits)
    assert found.seconds == found.commits[-1].at
    workers = sum(node.workers for node in nodes)
    assert found.redone <= workers * (found.failures + found.preemptions)
    assert found.wasted_seconds <= workers * found.seconds


def test_nobody_works_while_it_is_gone() -> None:
    """From an outage to the end of the loading that follows it, a node commits nothing more."""
    outages = (Outage(50.5, 80), Outage(120.25, 300, is_told=True))
    cluster = Cluster(500, (Node(2.0, 2, 7.0, 0.0, outages), Node(3.0, joins=40)))
    for groups in (4, inf):
        found = alone(cluster, groups)
        own = [c.at for c in found.commits if c.node == 0]
        assert not [at for at in own if 50.5 < at < 89 or 120.25 < at < 309]
        assert [at for at in own if at <= 50.5]  # a group that a death cuts is noted there
        assert [at for at in own if at > 309]
        assert min(c.at for c in found.commits if c.node == 1) >= 43
        assert (found.failures, found.preemptions) == (1, 1)


@pytest.mark.parametrize(("unit", "life"), [(10.0, 100.0), (60.0, 60.0), (1.0, 200.0)])
def test_failures_cost_what_theory_says(unit: float, life: float) -> None:
    """A unit that has to be done in one life takes (e^(u/m) - 1) (m + restart) on average."""
    restart, load, units = 15.0, 5.0, 40
    cluster = Cluster(
        units,
        (Node(unit, 1, load),),
        mtbf_seconds=life,
        restart_seconds=restart,
    )
    took = [one_run(cluster, 3, run).seconds for run in range(600)]
    expected = load + units * expm1(unit / life) * (life + restart + load)
    error = stdev(took) / len(took) ** 0.5
    assert abs(fmean(took) - expected) < 4 * error
    assert error < 0.03 * expected  # the comparison says something


def test_failures_come_as_often_as_they_should() -> None:
    """Of both kinds: an announced one in half of the other's time."""
    cluster = Cluster(
        2000, alike(4, Node(1.0)), mtbf_seconds=100, preempted_seconds=50, restart_seconds=0
    )
    found = simulate(cluster, runs=100)
    lived = found.seconds.mean * 4
    assert found.failures.mean == pytest.approx(lived / 100, rel=0.1)
    assert found.preemptions.mean == pytest.approx(lived / 50, rel=0.1)


@pytest.mark.parametrize("spread", [0.0, 0.4])
def test_groups_change_nothing(spread: float) -> None:
    """Units granted in groups or one by one: the same times and losses, on average."""
    cluster = Cluster(
        400,
        (Node(1.0), Node(1.7, 2, 3.0)),
        mtbf_seconds=60,
        preempted_seconds=90,
        restart_seconds=5,
        lease_seconds=10,
        unit_spread=spread,
        node_spread=0.1,
    )
    both = [
        [Simulator(cluster, Random(f"{groups}{n}"), groups=groups).run() for n in range(300)]
        for groups in (4, inf)
    ]
    for of in ("seconds", "failures", "redone", "wasted_seconds"):
        one, other = ([float(getattr(run, of)) for run in runs] for runs in both)
        error = (stdev(one) ** 2 + stdev(other) ** 2) ** 0.5 / len(one) ** 0.5
        assert abs(fmean(one) - fmean(other)) < 4 * error, of
    assert fmean(run.events for run in both[0]) < 0.7 * fmean(run.events for run in both[1])


def test_spread_units_take_as_long_on_average() -> None:
    """Gamma times of one worker: their sum has the mean n u, and the deviation sqrt(n) s u."""
    cluster = Cluster(100, (Node(2.0),), unit_spread=0.5)
    took = [one_run(cluster, 1, run).seconds for run in range(1000)]
    assert fmean(took) == pytest.approx(200, rel=0.01)
    assert stdev(took) == pytest.approx(0.5 * 2 * 100**0.5, rel=0.1)


def test_pace_is_drawn_between_its_bounds() -> None:
    """What is not known of the speed is an interval of the time."""
    cluster = Cluster(1000, alike(2, Node(1.0)), pace=(0.5, 1.0))
    found = simulate(cluster, runs=200).seconds
    assert 500 <= found.low < 550
    assert 900 < found.high <= 1000


def test_an_announced_end_frees_its_unit_at_once_another_after_the_lease() -> None:
    """Two units, two nodes, one of which goes for good in the middle of its unit."""
    for is_told, expected in ((True, 20.0), (False, 45.0)):
        nodes = (Node(10.0), Node(10.0, outages=(Outage(5.0, None, is_told),)))
        found = simulate(Cluster(2, nodes, lease_seconds=30))
        assert found.seconds.mean == expected
        assert found.redone.mean == 1
        assert found.wasted_seconds.mean == 5
        assert found.by_node == (2, 0)


def test_what_cannot_end_is_infinite() -> None:
    """Machines that die long before a unit is done, and a last one that never comes back."""
    dying = Cluster(10, alike(2, Node(3600.0)), mtbf_seconds=60, restart_seconds=1)
    gone = Cluster(10, (Node(1.0, outages=(Outage(2.5, None),)),))
    for cluster in (dying, gone):
        found = simulate(cluster)
        assert found.unfinished == found.runs == 1
        assert found.seconds.mean == found.seconds.high == inf
    assert simulate(gone).by_node == (2,)


def test_equal_seeds_give_equal_runs() -> None:
    """And another seed others."""
    cluster = Cluster(300, alike(3, Node(1.0)), mtbf_seconds=50, unit_spread=0.2)
    assert simulate(cluster, seed=1) == simulate(cluster, seed=1)
    assert simulate(cluster, seed=1) != simulate(cluster, seed=2)
    assert simulate(cluster, runs=7).runs == 7
    with pytest.raises(UsageError, match="runs"):
        simulate(cluster, runs=0)


def test_a_hundred_million_images_are_no_work() -> None:
    """1.6 million units of patch tensors, 16 nodes of 8 GPUs that fail: seconds, and a few MB."""
    cluster = Cluster(
        1_562_500,
        alike(16, Node(6.5, 8, 60)),
        mtbf_seconds=360_000,
        restart_seconds=300,
        unit_spread=0.1,
        node_spread=0.05,
        pace=(0.9, 1.0),
    )
    began = time.process_time()
    simulate(cluster)
    assert time.process_time() - began < 2
    tracemalloc.start()
    simulate(cluster, runs=2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


def test_facts_of_a_run_are_json() -> None:
    """Written and read, they are the same; what is odd is refused by its name."""
    cluster = Cluster(7, (Node(1.0, outages=(Outage(1.0, 2.0),)), Node(2.0)), lease_seconds=3)
    assert Cluster.from_json(cluster.to_json()) == cluster
    assert fungi.Cluster is Cluster
    good = {"units": 7, "nodes": [{"unit_seconds": 1}]}
    assert Cluster.from_json(good) == Cluster(7, (Node(1.0),))
    for odd, where in (
        ({**good, "units": 0}, "cluster.units"),
        ({**good, "speed": 1}, "cluster.speed"),
        ({**good, "nodes": []}, "cluster.nodes"),
        ({"units": 7}, None),
        ({**good, "nodes": [{"unit_seconds": -1}]}, "cluster.nodes"),
        ({**good, "pace": [2, 1]}, "pace"),
        (
            {**good, "nodes": [{"unit_seconds": 1, "outages": [{"at": 5, "back": 3}]}]},
            "nodes[0].outages",
        ),
    ):
        with pytest.raises(UsageError) as refused:
            Cluster.from_json(odd)
        assert refused.value.where == where
    with pytest.raises(UsageError):
        replace(cluster, pace=(2.0, 1.0))


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40), st.floats(0, 1))
def test_quantiles_are_those_of_numpy(values: list[float], share: float) -> None:
    """Linear between neighbours."""
    import numpy as np

    assert quantile(sorted(values), share) == pytest.approx(float(np.quantile(values, share)))
