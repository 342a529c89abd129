"""The simulation beside real runs of a two-node cluster, which `benchmarks/two_nodes.py` measured.

Two cores with nothing else on them; a node was killed, and another joined. What a unit takes, and a
start, was measured by other runs before each.
"""

from __future__ import annotations

import pytest

from fungistore.planning.cluster import Cluster, Node, Outage
from fungistore.planning.simulate import simulate

UNITS = 125
# a unit, loading, when a node joins; killed, back; what it took, and units of each node
RUNS = [
    (1.96388, 5.38135, 4.04596, 40.00239, 67.14119, 145.87575, (70, 55)),
    (1.83138, 5.76374, 3.69783, 40.00407, 67.13373, 145.81846, (72, 53)),
    (1.77090, 5.52754, 4.28815, 40.00427, 66.13288, 145.38392, (70, 55)),
]


@pytest.mark.parametrize(("unit", "load", "joins", "killed", "back", "took", "done"), RUNS)
def test_a_run_takes_what_was_predicted_from_before_it(
    unit: float, load: float, joins: float, killed: float, back: float, took: float, done: list[int]
) -> None:
    """The time within a tenth, the units of each node within three of some sixty."""
    lived = Node(unit, load_seconds=load, joins=joins)
    lost = Node(unit, load_seconds=load, joins=joins, outages=(Outage(at=killed, back=back),))
    found = simulate(Cluster(UNITS, (lived, lost)))
    assert found.seconds.mean == pytest.approx(took, rel=0.1)
    assert list(found.by_node) == pytest.approx(list(done), abs=3)
